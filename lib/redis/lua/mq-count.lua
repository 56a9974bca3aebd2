#!lua flags=no-writes
-- Count the entries of a partition behind a position up to another ('+': the end), at most `limit`: Redis' own count of a group is
-- wrong after it has loaded its AOF (7.0.15), and unknown after a trim.
--
-- Reads one key.
-- Returns {count, last entry counted}; when the count is `limit`, there may be more behind it. The entry is '' when there is none.
local stream = KEYS[1]
local position = ARGV[1]
local up_to = ARGV[2]
local limit = ARGV[3]

local entries = redis.call('XRANGE', stream, '(' .. position, up_to, 'COUNT', limit)
return { #entries, #entries > 0 and entries[#entries][1] or '' }
