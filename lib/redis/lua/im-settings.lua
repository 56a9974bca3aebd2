#!lua
-- Change a conversation's title or who may join, or dissolve it: a timeline entry, its event, and the hash.
--
-- One partition's hash tag. A row of the permission table says who may. A dissolved conversation can be read, never written
-- again.
-- Returns the entry's seq, 0 when nothing changes, or an error code as a string.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local events = KEYS[4]
local event_groups = KEYS[5]
local id = ARGV[1]
local by = ARGV[2]
local event_id = ARGV[3]
local action = ARGV[4]
local title = ARGV[5]
local join = ARGV[6]
local rights = ARGV[7]
local events_max = ARGV[8]
-- action: change or dissolve. title: JSON string; "" leaves it, and so does join "".

local state = im_load(conv, members)
local acting = redis.call('HGET', members, by)
if not state or not acting then return 'NOT_MEMBER' end
if state.type == 'direct' then return 'DIRECT' end
if not im_may(rights, state, acting) then return 'FORBIDDEN' end
local is_end = action == 'dissolve'
if state.dissolved then return is_end and 0 or 'DISSOLVED' end
local is_renamed = title ~= '' and title ~= state.title
local is_reopened = join ~= '' and join ~= state.join
if not is_end and not is_renamed and not is_reopened then return 0 end
if im_is_full(events, event_groups, events_max) then return 'EVENTS_FULL' end
local now_ms = im_now()
state.active = now_ms
local tail = '"id":"' .. event_id .. '","by":"' .. by .. '","at":' .. string.format('%.0f', now_ms)
if is_renamed then state.title, tail = title, tail .. ',"title":' .. title end
if is_reopened then state.join, tail = join, tail .. ',"join":"' .. join .. '"' end
if is_end then tail = tail .. ',"dissolved":true' end
local event_type = is_end and 'im.conversation.dissolved' or 'im.conversation.updated'
local seq = im_append_entry(log, events, id, state, 'settings', event_id, event_type, tail .. '}')
if is_end then state.flags = state.flags .. 'd' end
redis.call('HSET', conv, 'title', state.title, 'join', state.join)
redis.call('HSET', members, '#', im_place(state))
return seq
