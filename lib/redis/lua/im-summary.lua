#!lua flags=no-writes
-- What one member sees of a conversation in a list: its state, the member's cursor, the last message.
--
-- Read-only, one partition's hash tag.
-- Returns {place, type, title, size, created, member value, join, last message's record, its content part, its reactions part}
-- ('' for what is not there), or false when `user` is not a member.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local folds = KEYS[4]
local user = ARGV[1]

local own = redis.call('HMGET', members, '#', user)
if not own[1] or not own[2] then return false end
local values = redis.call('HMGET', conv, 'type', 'title', 'size', 'created', 'join')
if not values[1] then return false end
local last_seq = string.match(own[1], '^%d+ %d+ %d+ (%d+)')
local last = redis.call('XRANGE', log, last_seq, last_seq)[1]
local parts = redis.call('HMGET', folds, last_seq .. 'c', last_seq .. 'r')
return {
  own[1], values[1], values[2], values[3], values[4], own[2], values[5] or 'invited',
  last and last[2][2] or '', parts[1] or '', parts[2] or '',
}
