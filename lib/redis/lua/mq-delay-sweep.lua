#!lua flags=allow-oom
-- Forget delayed messages of one partition that ended long ago, or more than may be remembered, the oldest first.
--
-- Atomic; both keys are of one partition. At most `limit` per call: the caller repeats. Redis TIME decides.
-- Returns how many were forgotten.
local records = KEYS[1]
local ended = KEYS[2]
local kept_ms = tonumber(ARGV[1])
local kept_max = tonumber(ARGV[2])
local limit = tonumber(ARGV[3])

redis.call('HLEN', records)
local time = redis.call('TIME')
local oldest_ms = time[1] * 1000 + math.floor(time[2] / 1000) - kept_ms
local old = redis.call('ZCOUNT', ended, '-inf', string.format('%.0f', oldest_ms))
local excess = redis.call('ZCARD', ended) - kept_max
local count = math.min(limit, math.max(old, excess))
if count <= 0 then return 0 end
local ids = redis.call('ZRANGE', ended, 0, count - 1)
redis.call('ZREMRANGEBYRANK', ended, 0, count - 1)
redis.call('HDEL', records, unpack(ids))
return #ids
