#!lua flags=allow-oom
-- Settle deliveries of a concurrent group in one partition: ack them, put them off to a retry, or bury them with the ack.
--
-- Atomic and fenced per delivery; all keys are of one partition. A delivery is the caller's while the pending list names the
-- member and the count (of Redis, how often it was handed out). Again has no further effect.
-- ARGV behind the named ones, per delivery: kind, entry, count, wait ms, attempts record; of kind `bury` the values that mq_bury
-- takes behind them. Kinds: `ack`, `pass` (acked unseen), `retry` (record '' leaves it), `bury`, `alone` (only noted in the record).
-- Returns {outcomes, dead letters evicted}; outcomes: 1 settled, 0 another holds it, 2 it is settled already.
local stream = KEYS[1]
local retries = KEYS[2]
local attempts = KEYS[3]
local dead = KEYS[4]
local group = ARGV[1]
local member = ARGV[2]
local dead_max = ARGV[3]

redis.call('HLEN', attempts)
redis.call('ZCARD', retries)
redis.call('XPENDING', stream, group)
local length = redis.call('XLEN', dead)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local outcomes, buried = {}, 0
local i = 4
while i <= #ARGV do
  local kind, entry, count = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  if not pending then
    outcomes[#outcomes + 1] = 2
  elseif pending[2] ~= member or string.format('%.0f', pending[4]) ~= count then
    outcomes[#outcomes + 1] = 0
  else
    if kind == 'alone' then
      redis.call('HSET', attempts, entry, ARGV[i + 4])
    elseif kind == 'retry' then
      redis.call('ZADD', retries, string.format('%.0f', now_ms + tonumber(ARGV[i + 3])), entry)
      redis.call('XCLAIM', stream, group, '#retry', 0, entry, 'JUSTID')
      if ARGV[i + 4] ~= '' then redis.call('HSET', attempts, entry, ARGV[i + 4]) end
    else
      if kind == 'bury' then
        mq_bury(dead, dead_max, member, i + 5)
        buried = buried + 1
      end
      redis.call('XACK', stream, group, entry)
      redis.call('HDEL', attempts, entry)
      if member == '#pull' then redis.call('ZREM', retries, entry) end
    end
    outcomes[#outcomes + 1] = 1
  end
  i = i + 5 + (kind == 'bury' and MQ_BURY_ARGS or 0)
end
local evicted = 0
if buried > 0 then evicted = length + buried - redis.call('XLEN', dead) end
return { outcomes, evicted }
