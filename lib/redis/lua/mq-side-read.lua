#!lua flags=allow-oom
-- Read further messages of a key aside: its first ones, or those behind the entry `after` unless that is ''.
--
-- Reads two keys of one partition; changes nothing.
-- Returns a list of {entry, header, data}.
local side = KEYS[1]
local side_order = KEYS[2]
local key = ARGV[1]
local after = ARGV[2]
local count = tonumber(ARGV[3])
local bytes_max = tonumber(ARGV[4])

local found = mq_side_first({ side = side, order = side_order }, key, after ~= '' and after or nil, count, bytes_max)
return found
