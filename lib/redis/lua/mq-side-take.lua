#!lua flags=allow-oom
-- Hand the holder of a partition the keys aside that are due, each with its first messages.
--
-- Atomic and fenced; all keys are of one partition. A key that is in the hand of an earlier holder, or out to a service whose lease
-- ended, counts a loss (mq-lost.lua). What the holder has in hand is looked at again after another `lease_ms`; a key that it was handed
-- and does not know of, for the answer was lost, it is handed again then, at no cost. Again hands out nothing twice.
-- ARGV behind the named ones: the keys that the holder has in hand, or has said to be back without having heard of the commit.
-- Returns {1, keys, due keys left or not}, a key being {key, failed, losses, first failure ms, history, messages}, a message {entry,
-- header, data}; or {0} when the token is stale.
local lease = KEYS[1]
local aside = KEYS[2]
local aside_due = KEYS[3]
local side = KEYS[4]
local side_order = KEYS[5]
local member = ARGV[1]
local token = ARGV[2]
local lease_ms = tonumber(ARGV[3])
local limit = tonumber(ARGV[4])
local count = tonumber(ARGV[5])
local bytes_max = tonumber(ARGV[6])

local owner, held_token = unpack(redis.call('HMGET', lease, 'owner', 'token'))
if owner ~= member or held_token ~= token then return { 0 } end
local queue = { aside = aside, due = aside_due, side = side, order = side_order }
mq_side_check(queue)

local is_known = {}
for i = 7, #ARGV do is_known[ARGV[i]] = true end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local keys = {}
local due = redis.call('ZRANGEBYSCORE', aside_due, '-inf', now_ms, 'LIMIT', 0, limit)
for i, key in ipairs(due) do
  local record = mq_side_get(queue, key)
  if bytes_max <= 0 then return { 1, keys, 1 } end
  local is_ours = record.state == 'h' and record.token == token
  if is_ours and is_known[key] then
    redis.call('ZADD', aside_due, string.format('%.0f', now_ms + lease_ms), key)
  else
    local messages, bytes = mq_side_first(queue, key, nil, count, bytes_max)
    bytes_max = bytes_max - bytes
    if record.state ~= 'r' and not is_ours then mq_count_loss(record, record.state == 'o' and '#pull' or '', now_ms) end
    record.state, record.token, record.until_ms = 'h', token, 0
    mq_side_set(queue, key, record, now_ms + lease_ms)
    keys[#keys + 1] = { key, record.failed, record.losses, record.first, record.history, messages }
  end
end
return { 1, keys, #due == limit and 1 or 0 }
