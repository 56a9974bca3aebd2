#!lua
-- Move a member's read cursor forward.
--
-- One partition's hash tag. The cursor keeps the seq and how many messages lie up to it, so unread is a subtraction.
-- Returns {read seq, unread}; "NEEDS_ORDINAL" when the entry at `seq` has left the hot window and the caller gave no ordinal;
-- "BEYOND <head>", NOT_MEMBER or EVENTS_FULL. Nothing is written and no event appended unless the cursor moves.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local events = KEYS[4]
local event_groups = KEYS[5]
local id = ARGV[1]
local user = ARGV[2]
local seq = tonumber(ARGV[3])
local given_ordinal = ARGV[4]
local event_id = ARGV[5]
local events_max = ARGV[6]

local state = im_load(conv, members)
local value = redis.call('HGET', members, user)
if not state or not value then return 'NOT_MEMBER' end
local head, read, ordinal = string.match(value, '^(%a %d+ %d+) (%d+) (%d+)$')
if seq > state.head then return 'BEYOND ' .. state.head end
if seq <= tonumber(read) then return {tonumber(read), state.messages - ordinal} end
if given_ordinal ~= '' then
  ordinal = given_ordinal
else
  local entry = redis.call('XRANGE', log, seq, seq)[1]
  if not entry then return 'NEEDS_ORDINAL' end
  ordinal = string.match(entry[1], '%d+$')
end
if im_is_full(events, event_groups, events_max) then return 'EVENTS_FULL' end
mq_append(events, event_id, 'im.read', id, '', '{"conversation":"' .. id .. '","user":"' .. user .. '","seq":' .. seq .. '}',
  im_properties(state))
redis.call('HSET', members, user, head .. ' ' .. seq .. ' ' .. ordinal)
return {seq, state.messages - ordinal}
