#!lua flags=allow-oom
-- Give back what a member of a concurrent group held in its last life, in one partition: it has just started under its name.
--
-- Atomic; all keys are of one partition. Each counts as a lost lease and is due at once, for any member. Again has no further
-- effect.
-- Returns how many were given back; when it is `limit`, there may be more.
local stream = KEYS[1]
local retries = KEYS[2]
local attempts = KEYS[3]
local lease = KEYS[4]
local group = ARGV[1]
local member = ARGV[2]
local limit = tonumber(ARGV[3])

redis.call('ZCARD', retries)
redis.call('HLEN', attempts)
redis.call('HLEN', lease)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('XPENDING', stream, group, '-', '+', limit, member)
for _, pending in ipairs(held) do
  local entry = pending[1]
  redis.call('ZADD', retries, 0, entry)
  redis.call('XCLAIM', stream, group, '#retry', 0, entry, 'JUSTID')
  redis.call('HSET', attempts, entry, mq_lost(redis.call('HGET', attempts, entry), member, now_ms))
end
mq_note_claims({ lease = lease }, #held)
return #held
