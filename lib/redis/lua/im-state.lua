#!lua
-- Fragment: what a conversation is and what its members may do, as the scripts of the chat see it. Writes nothing.

-- In the place of a mute's end: the other side of a direct conversation has blocked the member. Later than any time that a
-- mute may have.
local IM_BLOCKED = '9007199254740991'

local function im_now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The conversation's fields that decide and describe, or nil. Ids and titles in it are JSON already, so views are built by
-- concatenation: user text is never decoded in Lua.
local function im_load(conv, members)
  local values = redis.call('HMGET', conv, 'type', 'title', 'size', 'created', 'digest', 'join')
  local place = redis.call('HGET', members, '#')
  if not values[1] or not place then return nil end
  local head, messages, active, last, epoch, flags = string.match(place, '^(%d+) (%d+) (%d+) (%d+) (%w+) ?(%a*)$')
  return {
    head = tonumber(head), messages = tonumber(messages), active = tonumber(active), last = last, epoch = epoch,
    flags = flags, dissolved = string.find(flags, 'd', 1, true) ~= nil,
    type = values[1], title = values[2], size = tonumber(values[3]), created = values[4], digest = values[5],
    join = values[6] or 'invited',
  }
end

-- Whether the partition of im.events takes nothing more: as in im-send.lua, only while a group reads it.
local function im_is_full(events, event_groups, events_max)
  return redis.call('XLEN', events) >= tonumber(events_max) and redis.call('HLEN', event_groups) > 0
end

-- The value of the members hash's "#" as of now.
local function im_place(state)
  return string.format('%d %d %.0f ', state.head, state.messages, state.active) .. state.last .. ' ' .. state.epoch ..
    (state.flags ~= '' and ' ' .. state.flags or '')
end

-- Whether the member may act, by a row of lib/im/permissions.ts: "direct=m group=oam channel=oa".
local function im_may(rights, state, member)
  local roles = string.match(rights, state.type .. '=(%a*)')
  return roles ~= nil and string.find(roles, string.sub(member, 1, 1), 1, true) ~= nil
end

-- Why a member must be silent now, or nil.
local function im_silenced(member, now_ms)
  local muted_until = string.match(member, '^%a %d+ (%d+)')
  if tonumber(muted_until) <= now_ms then return nil end
  return muted_until == IM_BLOCKED and 'BLOCKED' or 'MUTED'
end

-- The conversation as notifications show it: JSON without its member list.
local function im_view(id, state)
  return '{"id":"' .. id .. '","type":"' .. state.type .. '","title":' .. state.title .. ',"epoch":"' .. state.epoch ..
    '","head":' .. state.head .. ',"created":' .. state.created .. ',"memberCount":' .. state.size ..
    (state.join == 'open' and ',"join":"open"}' or '}')
end

-- The properties of an event: which timeline, the messages up to it, and whether it is a channel's.
local function im_properties(state)
  return '{"epoch":"' .. state.epoch .. '","ordinal":"' .. state.messages .. '"' ..
    (string.find(state.flags, 'c', 1, true) and ',"channel":"1"}' or '}')
end
