#!lua flags=allow-oom
-- Take an instance out of the registry when it stops.
--
-- One key. Only the incarnation that registered removes itself: a successor under the same name stays.
-- Returns 1 when it was removed, else 0.
local registry = KEYS[1]
local instance = ARGV[1]
local incarnation = ARGV[2]

local value = redis.call('HGET', registry, instance)
if not value or string.match(value, '^%d+ (%S+) ') ~= incarnation then return 0 end
return redis.call('HDEL', registry, instance)
