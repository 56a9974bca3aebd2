#!lua flags=allow-oom
-- Let half messages of one partition leave the states whose time is over: prepared ones expire, expired ones are dropped, and so is
-- what is remembered of those that ended.
--
-- Atomic; all keys are of one partition, the checks' zsets behind the named ones. Redis TIME decides; again has no further effect.
-- More than `expired_max` expired ones are not kept: the oldest go. At most `limit` of each kind per call.
-- ARGV behind the named ones: per prepared one that is over its id and the number of its checks' zset (KEYS[4 + number]).
-- Returns {ids that expired, ids of expired ones that were dropped, how many ended ones were forgotten}.
local half = KEYS[1]
local prepared = KEYS[2]
local expired = KEYS[3]
local ended = KEYS[4]
local expired_ms = tonumber(ARGV[1])
local expired_max = tonumber(ARGV[2])
local limit = tonumber(ARGV[3])

redis.call('HLEN', half)
redis.call('ZCARD', prepared)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', expired, '-inf', now_ms, 'LIMIT', 0, limit)
local forgotten = redis.call('ZRANGEBYSCORE', ended, '-inf', now_ms, 'LIMIT', 0, limit)
for i = 5, #KEYS do redis.call('ZCARD', KEYS[i]) end

local left = {}
for i = 4, #ARGV, 2 do
  local id, due = ARGV[i], KEYS[4 + tonumber(ARGV[i + 1])]
  local end_ms = redis.call('ZSCORE', prepared, id)
  local text = redis.call('HGET', half, id)
  if end_ms and tonumber(end_ms) <= now_ms and text then
    local head = mq_half_head(text)
    head.state = 'x'
    redis.call('HSET', half, id, mq_half_head_text(head))
    redis.call('ZREM', prepared, id)
    redis.call('ZREM', due, id)
    redis.call('ZADD', expired, string.format('%.0f', now_ms + expired_ms), id)
    left[#left + 1] = id
  end
end

local function drop(from, id)
  redis.call('ZREM', from, id)
  redis.call('HDEL', half, id, id .. '/message')
end
for _, id in ipairs(over) do drop(expired, id) end
for _, id in ipairs(forgotten) do drop(ended, id) end
local surplus = math.min(limit, redis.call('ZCARD', expired) - expired_max)
if surplus > 0 then
  for _, id in ipairs(redis.call('ZRANGE', expired, 0, surplus - 1)) do
    drop(expired, id)
    over[#over + 1] = id
  end
end
return { left, over, #forgotten }
