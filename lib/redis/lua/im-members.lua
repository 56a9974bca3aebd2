#!lua
-- Add, remove or change members of a conversation: one timeline entry for all of the call that changes something.
--
-- One partition's hash tag; permission, change, entry and event are one commit. The rows of the permission table say who may;
-- besides, nobody acts on a member of his own or a higher rank, nor on his own role, and an owner leaves last. Who gives
-- ownership away becomes an admin in the same entry.
-- Into an open conversation anybody takes himself.
-- Returns {seq, conversation type} (seq 0: nothing to change), or an error code as a string.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local events = KEYS[4]
local event_groups = KEYS[5]
local id = ARGV[1]
local by = ARGV[2]
local action = ARGV[3]
local event_id = ARGV[4]
local role = ARGV[5]
local muted_until = ARGV[6]
local group_max = tonumber(ARGV[7])
local channel_max = tonumber(ARGV[8])
local staff_max = tonumber(ARGV[9])
local rights = ARGV[10]
local mute_rights = ARGV[11]
local events_max = ARGV[12]
-- Then the users that the action is about.

local RANK = { m = 1, a = 2, o = 3 }
local NAMES = { m = 'member', a = 'admin', o = 'owner' }
local state = im_load(conv, members)
local acting = redis.call('HGET', members, by)
local is_joining = action == 'added' and #ARGV == 13 and ARGV[13] == by
if not state or not (acting or is_joining and state.join == 'open') then return 'NOT_MEMBER' end
if state.dissolved then return 'DISSOLVED' end
if state.type == 'direct' then return 'DIRECT' end
if acting then
  if (role ~= '' or action ~= 'updated') and not im_may(rights, state, acting) then return 'FORBIDDEN' end
  if muted_until ~= '' and not im_may(mute_rights, state, acting) then return 'FORBIDDEN' end
end
local own_rank = acting and RANK[string.sub(acting, 1, 1)] or 0

-- What the member's value becomes, false to remove it, or nil and a refusal.
local function changed_value(user, value)
  local rank = RANK[string.sub(value, 1, 1)]
  if action == 'left' then
    if rank == 3 and state.size > 1 then return nil, 'LAST_OWNER' end
    return false
  end
  if role ~= '' then
    if user == by then return nil, 'FORBIDDEN' end
  elseif rank >= own_rank then
    return nil, 'FORBIDDEN'
  end
  if muted_until ~= '' and rank >= own_rank then return nil, 'FORBIDDEN' end
  if action == 'removed' then return false end
  local old_role, joined, old_muted, read = string.match(value, '^(%a) (%d+) (%d+) (.*)$')
  -- Nobody could end an owner's mute.
  local muted = role == 'o' and '0' or muted_until ~= '' and muted_until or old_muted
  return (role ~= '' and role or old_role) .. ' ' .. joined .. ' ' .. muted .. ' ' .. read
end

local changed = {}
local quoted = {}
local writes = {}
for i = 13, #ARGV do
  local user = ARGV[i]
  local value = redis.call('HGET', members, user)
  local write
  if action == 'added' then
    if not value then write = 'm ' .. (state.head + 1) .. ' 0 ' .. (state.head + 1) .. ' ' .. state.messages end
  elseif value then
    local refusal
    write, refusal = changed_value(user, value)
    if refusal then return refusal end
    if write == value then write = nil end
  elseif action == 'updated' then
    return 'NOT_FOUND'
  end
  if write ~= nil then
    changed[#changed + 1] = user
    quoted[#quoted + 1] = '"' .. user .. '"'
    writes[#writes + 1] = write
  end
end
if #changed == 0 then return {0, state.type} end

-- Owner and admins of a channel, beside its subscribers, who are too many to search.
local function staff_after()
  local kept = {}
  for user in string.gmatch(redis.call('HGET', conv, 'staff') or '', '%S+') do
    if user ~= changed[1] then kept[#kept + 1] = user end
  end
  if writes[1] and string.sub(writes[1], 1, 1) ~= 'm' then kept[#kept + 1] = changed[1] end
  return #kept > staff_max and 'FULL' or table.concat(kept, ' ')
end

local growth = action == 'added' and #changed or action == 'updated' and 0 or -#changed
if state.size + growth > (state.type == 'channel' and channel_max or group_max) then return 'FULL' end
state.size = state.size + growth
local staff = state.type == 'channel' and action ~= 'added' and staff_after()
if staff == 'FULL' then return 'STAFF_FULL' end
if im_is_full(events, event_groups, events_max) then return 'EVENTS_FULL' end
local now_ms = im_now()
state.active = now_ms
local tail = '"id":"' .. event_id .. '","by":"' .. by .. '","at":' .. string.format('%.0f', now_ms) .. ',"action":"' .. action .. '","users":[' ..
  table.concat(quoted, ',') .. ']' .. (role ~= '' and ',"role":"' .. NAMES[role] .. '"' or '') ..
  (muted_until ~= '' and ',"mutedUntil":' .. muted_until or '') .. '}'
local event_types = { added = 'im.member.added', removed = 'im.member.removed', left = 'im.member.removed', updated = 'im.member.updated' }
local seq = im_append_entry(log, events, id, state, 'member', event_id, event_types[action], tail)
redis.call('HSET', conv, 'size', state.size)
if staff then redis.call('HSET', conv, 'staff', staff) end
redis.call('HSET', members, '#', im_place(state))
for i, user in ipairs(changed) do
  if writes[i] then redis.call('HSET', members, user, writes[i]) else redis.call('HDEL', members, user) end
end
if role == 'o' then redis.call('HSET', members, by, 'a' .. string.sub(acting, 2)) end
return {seq, state.type}
