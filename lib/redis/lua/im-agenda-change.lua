#!lua
-- Change what an item of a user's agenda says, if it still is what the caller saw.
--
-- One key. Again finds it changed and does nothing.
-- Returns 1, or 0 when it is something else, or gone.
local items = KEYS[1]
local field = ARGV[1]
local before = ARGV[2]
local after = ARGV[3]

if redis.call('HGET', items, field) ~= before then return 0 end
redis.call('HSET', items, field, after)
return 1
