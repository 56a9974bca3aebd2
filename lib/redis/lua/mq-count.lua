#!lua flags=no-writes
-- Count the entries of a partition behind a position, up to a limit: Redis' own count of a group is wrong after it has loaded
-- its AOF (7.0.15), and unknown after a trim.
--
-- Reads one key.
-- Returns the count; when it is `limit`, there may be more.
local stream = KEYS[1]
local position = ARGV[1]
local limit = ARGV[2]

return #redis.call('XRANGE', stream, '(' .. position, '+', 'COUNT', limit)
