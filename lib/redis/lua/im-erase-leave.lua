#!lua
-- Take a user who is being erased out of a conversation, as if he left: a timeline entry, its event, and the hashes.
--
-- One partition's hash tag, one commit. Nobody's permission is asked. `successor` ("" for none) becomes owner in his place, by an
-- entry of its own. A direct conversation keeps its second place, under the pseudonym, and is dissolved, and so is one that nobody
-- is left in: no more is written there. A dissolved one takes no entry. Again finds him gone.
-- Returns 1 when he was a member, 0 when not, "SUCCESSOR" when that is none (any more), or EVENTS_FULL.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local events = KEYS[4]
local event_groups = KEYS[5]
local id = ARGV[1]
local user = ARGV[2]
local pseudonym = ARGV[3]
local successor = ARGV[4]
local event_id = ARGV[5]
local second_event_id = ARGV[6]
local events_max = ARGV[7]

local state = im_load(conv, members)
local value = redis.call('HGET', members, user)
if not state or not value then return 0 end
local heir = successor ~= '' and redis.call('HGET', members, successor)
if successor ~= '' and not heir then return 'SUCCESSOR' end
if im_is_full(events, event_groups, events_max) then return 'EVENTS_FULL' end

local is_direct = state.type == 'direct'
local now_ms = im_now()
local function append(entry_id, event_type, rest)
  local tail = '"id":"' .. entry_id .. '","by":"' .. user .. '","at":' .. string.format('%.0f', now_ms) .. rest
  im_append_entry(log, events, id, state, 'member', entry_id, event_type, tail)
end
local was_dissolved = state.dissolved
if not is_direct then state.size = state.size - 1 end
if not was_dissolved then
  state.active = now_ms
  append(event_id, 'im.member.removed', ',"action":"left","users":["' .. user .. '"]}')
  if heir then
    append(second_event_id, 'im.member.updated', ',"action":"updated","users":["' .. successor .. '"],"role":"owner"}')
  end
  if is_direct or state.size == 0 then state.flags = state.flags .. 'd' end
end
if state.type == 'channel' then
  local staff = {}
  for name in string.gmatch(redis.call('HGET', conv, 'staff') or '', '%S+') do
    if name ~= user and name ~= successor then staff[#staff + 1] = name end
  end
  if heir then staff[#staff + 1] = successor end
  redis.call('HSET', conv, 'staff', table.concat(staff, ' '))
end
redis.call('HSET', conv, 'size', state.size)
redis.call('HSET', members, '#', im_place(state))
if heir then redis.call('HSET', members, successor, 'o' .. string.sub(heir, 2)) end
if is_direct then redis.call('HSET', members, pseudonym, value) end
redis.call('HDEL', members, user)
return 1
