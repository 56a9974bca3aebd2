#!lua flags=no-writes
-- Read the next users of a partition behind a place, those first that were seen longest ago.
--
-- One key. A place is the time of a user and the user. Has that one been seen since, the page begins with the first of the same
-- time: then users of one ms are read again; passed over is none.
-- Returns users and times in turn.
local users = KEYS[1]
local seen_ms = ARGV[1]
local user = ARGV[2]
local count = tonumber(ARGV[3])
-- seen_ms: `-inf` for the beginning.

local from
if redis.call('ZSCORE', users, user) == seen_ms then
  from = redis.call('ZRANK', users, user) + 1
else
  from = redis.call('ZCOUNT', users, '-inf', '(' .. seen_ms)
end
return redis.call('ZRANGE', users, from, from + count - 1, 'WITHSCORES')
