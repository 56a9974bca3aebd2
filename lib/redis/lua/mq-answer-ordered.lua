#!lua flags=allow-oom
-- Take an outside service's answers for deliveries of an ordered group in one partition.
--
-- Atomic and fenced per delivery; all keys are of one partition. A delivery is the caller's while its key is out under the token and
-- the lease has not ended: from then on whoever holds the partition may hand it out again. With the end of a message the next
-- one of its key is due. Again has no further effect.
-- ARGV behind the named ones, per answer: kind, key, entry, token, ms, attempts record; of kind `bury` the values that mq_bury
-- takes behind them. Kinds: `ack`, `release` (due after ms), `retry` (likewise, with the record), `park` (with the record), `bury`,
-- `renew` (lease ends after ms).
-- Returns {outcomes, dead letters evicted}; outcomes: 1 done, 0 it is not the caller's, 2 it is finished already; of `renew` the end
-- of the lease, ms.
local lease = KEYS[1]
local dead = KEYS[2]
local aside = KEYS[3]
local aside_due = KEYS[4]
local side = KEYS[5]
local side_order = KEYS[6]
local dead_max = ARGV[1]

local queue = { aside = aside, due = aside_due, side = side, order = side_order }
mq_side_check(queue)
local length = redis.call('XLEN', dead)
-- What was handed out before a seek may be gone without being finished.
local sought_at = tonumber(redis.call('HGET', lease, 'sought_at') or 0)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function ready(key, due_ms, record)
  record.state, record.token, record.until_ms = 'r', '0', 0
  mq_side_set(queue, key, record, due_ms)
end

local function finish(key, entry)
  if mq_side_remove(queue, key, entry) then ready(key, now_ms, mq_side_get(queue, key)) end
end

local outcomes, buried = {}, 0
local i = 2
while i <= #ARGV do
  local kind, key, entry, token, ms = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local record = mq_side_get(queue, key)
  local outcome = 1
  if redis.call('HEXISTS', side, entry) == 0 then
    outcome = tonumber(token) > sought_at and 2 or 0
  elseif not record or record.state ~= 'o' or record.token ~= token or record.until_ms <= now_ms then
    outcome = 0
  elseif kind == 'ack' then
    finish(key, entry)
  elseif kind == 'bury' then
    mq_bury(dead, dead_max, '#pull', i + 6)
    buried = buried + 1
    finish(key, entry)
  elseif kind == 'renew' then
    record.until_ms = now_ms + ms
    mq_side_set(queue, key, record, record.until_ms)
    outcome = record.until_ms
  else
    if kind ~= 'release' then
      local failed, losses, first, history = string.match(ARGV[i + 5], '^(%d+) (%d+) (%d+) (.*)$')
      record.failed, record.losses, record.first, record.history = tonumber(failed), tonumber(losses), first, history
    end
    ready(key, now_ms + ms, record)
    if kind == 'park' then
      record.state = 'p'
      mq_side_set(queue, key, record)
    end
  end
  outcomes[#outcomes + 1] = outcome
  i = i + 6 + (kind == 'bury' and MQ_BURY_ARGS or 0)
end
local evicted = 0
if buried > 0 then evicted = length + buried - redis.call('XLEN', dead) end
return { outcomes, evicted }
