#!lua flags=no-writes
-- What one member sees of a conversation in a list: its state, the member's cursor, the last message.
--
-- Read-only, one partition's hash tag.
-- Returns {state, epoch, type, title, size, created, member value, last message's record, first hot seq}, or false when `user`
-- is not a member. Missing values are "".
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local user = ARGV[1]

local member = redis.call('HGET', members, user)
if not member then return false end
local values = redis.call('HMGET', conv, 'state', 'epoch', 'type', 'title', 'size', 'created')
if not values[1] then return false end
local last_seq = string.match(values[1], '^%d+ %d+ %d+ (%d+)')
local last = redis.call('XRANGE', log, last_seq .. '-0', last_seq .. '-0')[1]
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
values[7] = member
values[8] = last and last[2][6] or ''
values[9] = first and string.match(first[1], '^%d+') or ''
return values
