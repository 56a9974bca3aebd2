#!lua
-- Remove a device's push registration, unless it is another one by now.
--
-- One key. Again has no further effect.
-- Returns how many were removed.
local push = KEYS[1]
local device = ARGV[1]
local id = ARGV[2]

local stored = redis.call('HGET', push, device)
if not stored or string.match(stored, '^%S+') ~= id then return 0 end
return redis.call('HDEL', push, device)
