#!lua
-- Change a conversation's title, or dissolve it: a timeline entry, its event, and the hash.
--
-- One partition's hash tag. A row of the permission table says who may. A dissolved conversation can be read, never written
-- again.
-- Returns the entry's seq, 0 when nothing changes, or an error code as a string.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local events = KEYS[4]
local id = ARGV[1]
local by = ARGV[2]
local event_id = ARGV[3]
local title = ARGV[4]
local rights = ARGV[5]
-- title: JSON string, or "" to dissolve.

local state = im_load(conv, members)
local acting = redis.call('HGET', members, by)
if not state or not acting then return 'NOT_MEMBER' end
if state.dissolved then return title == '' and 0 or 'DISSOLVED' end
if state.type == 'direct' then return 'DIRECT' end
if not im_may(rights, state, acting) then return 'FORBIDDEN' end
if title == state.title then return 0 end
local now_ms = im_now()
state.active = now_ms
local tail = '"id":"' .. event_id .. '","by":"' .. by .. '","at":' .. string.format('%.0f', now_ms)
if title == '' then tail = tail .. ',"dissolved":true}' else tail = tail .. ',"title":' .. title .. '}' end
if title ~= '' then state.title = title end
local event_type = title == '' and 'im.conversation.dissolved' or 'im.conversation.updated'
local seq = im_append_entry(log, events, id, state, 'settings', event_id, event_type, tail)
if title == '' then state.flags = state.flags .. 'd' end
redis.call('HSET', conv, 'title', state.title)
redis.call('HSET', members, '#', im_place(state))
return seq
