#!lua
-- Create a conversation with its first members, once per id.
--
-- One partition's hash tag. Creation and first members are no timeline entries: seq starts with what happens next.
-- Returns "created", "same" when it exists with the same digest of content, "other" when it exists with another, or EVENTS_FULL.
local conv = KEYS[1]
local members = KEYS[2]
local events = KEYS[3]
local silenced = KEYS[4]
local event_groups = KEYS[5]
local id = ARGV[1]
local conversation_type = ARGV[2]
local title = ARGV[3]
local epoch = ARGV[4]
local digest = ARGV[5]
local creator = ARGV[6]
local event_id = ARGV[7]
local join = ARGV[8]
local events_max = ARGV[9]
-- Then the other members, each once.

local existing = im_load(conv, members)
if existing then
  if existing.digest ~= digest or existing.dissolved then return 'other' end
  return 'same'
end
redis.call('HLEN', members)
redis.call('SCARD', silenced)
if im_is_full(events, event_groups, events_max) then return 'EVENTS_FULL' end
local now_ms = im_now()
local state = { type = conversation_type, title = title, epoch = epoch, head = 0, messages = 0, size = #ARGV - 8,
  created = string.format('%.0f', now_ms), active = now_ms, last = '0', flags = conversation_type == 'channel' and 'c' or '', join = join }
-- The place comes first, for every send reads it: a small hash is searched from its start. In a direct conversation nobody
-- owns the other, and one may have blocked the other before it began.
local is_direct = conversation_type == 'direct'
local values = { '#', im_place(state) }
local quoted = {}
for i = 0, #ARGV - 9 do
  local user = i == 0 and creator or ARGV[9 + i]
  local muted = is_direct and redis.call('SISMEMBER', silenced, user) == 1 and IM_BLOCKED or '0'
  values[#values + 1] = user
  values[#values + 1] = (i == 0 and not is_direct and 'o' or 'm') .. ' 0 ' .. muted .. ' 0 0'
  quoted[i + 1] = '"' .. user .. '"'
end
redis.call('HSET', conv, 'type', conversation_type, 'title', title, 'size', state.size, 'created', state.created,
  'creator', creator, 'digest', digest, 'join', join)
if conversation_type == 'channel' then redis.call('HSET', conv, 'staff', creator) end
redis.call('HSET', members, unpack(values))
mq_append(events, event_id, 'im.conversation.created', id, '', '{"conversation":"' .. id .. '","view":' .. im_view(id, state) ..
  ',"members":[' .. table.concat(quoted, ',') .. ']}', im_properties(state))
return 'created'
