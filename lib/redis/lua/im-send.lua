#!lua
-- Commit a batch of sends of one partition: timeline entry, head, dedupe record, sender's read cursor and event, per send.
--
-- All keys share the hash tag of the partition. Each send is all or nothing: whatever can fail (a key of another type, the
-- append to the timeline) comes before its first write, and one send's failure leaves the others untouched.
-- When the partition of im.events is full (`events_max`, while a group reads it), nothing new is committed.
-- Returns one element per send: the seq when committed; "D<seq> <id> <digest>" when its dedupe field is known; "E<code>"
-- otherwise. Or {"G", generation} and nothing written when the caller's clock is in another dedupe generation than Redis.
local events = KEYS[1]
local sent = KEYS[2]
local sent_before = KEYS[3]
local event_groups = KEYS[4]
local generation = tonumber(ARGV[1])
local generation_ms = tonumber(ARGV[2])
local events_max = tonumber(ARGV[3])
local conversation_count = tonumber(ARGV[4])
local channel_speakers = ARGV[5]
-- Then two keys per conversation: members, log. And as arguments each conversation's id, then 8 per send: index of its
-- conversation, sender, dedupe field, dedupe record behind the seq, reply-to seq or 0, record behind the seq, message id, end of
-- the event's properties.
local SEND_ARGS = 8

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local current = math.floor(now_ms / generation_ms)
if current ~= generation then return {'G', current} end

local first = 6 + conversation_count
local send_count = (#ARGV - first + 1) / SEND_ARGS
local fields = {}
for i = 1, send_count do fields[i] = ARGV[first + (i - 1) * SEND_ARGS + 2] end
local known = redis.call('HMGET', sent, unpack(fields))
local known_before = redis.call('HMGET', sent_before, unpack(fields))
local is_full = redis.call('XLEN', events) >= events_max and redis.call('HLEN', event_groups) > 0

-- Numbers are turned into text once, with %d: both `..` and redis.call format a number as a float, 0.4 µs each time, which
-- for the eight places of a seq was a fifth of the whole commit.
local format, call, pcall, match = string.format, redis.call, redis.pcall, string.match
local args = ARGV

-- What a batch needs of a conversation and of a sender is read once and written back once. Both lie in one hash: "#" holds
-- "<head> <messages> <active ms> <last message's seq> <epoch>" (flags behind it: " c" a channel, " d" dissolved), a member's
-- field "<role> <joined seq> <muted until ms> <read seq> <messages up to it>".
local states = {}

-- Tables are made with all their fields at once: one that grows is allocated anew at 1, 2, 4, 8 fields.
local function to_member(state, user, value)
  local member = { head = '', read = false, refused = false }
  if not value then
    member.refused = 'ENOT_MEMBER'
  else
    local head, muted_until = match(value, '^(%a %d+ (%d+))')
    member.head = head
    if muted_until ~= '0' and tonumber(muted_until) > now_ms then
      member.refused = muted_until == '9007199254740991' and 'EBLOCKED' or 'EMUTED'
    elseif state.is_channel and not string.find(channel_speakers, string.sub(head, 1, 1), 1, true) then
      member.refused = 'EFORBIDDEN'
    end
  end
  state.members[user] = member
  return member
end

local function load_state(index_text, user)
  local index = tonumber(index_text)
  local base = 4 + (index - 1) * 2
  local state = {
    members_key = KEYS[base + 1], log = KEYS[base + 2], id = args[5 + index], members = {}, refused = false,
    place_end = '', properties = '', head = 0, messages = 0, seq = false, ordinal = '', is_channel = false,
  }
  states[index_text] = state
  local values = pcall('HMGET', state.members_key, '#', user)
  if values.err then
    state.refused = 'EINTERNAL'
  elseif not values[1] then
    state.refused = 'ENOT_MEMBER'
  else
    local head, messages, epoch, flags = match(values[1], '^(%d+) (%d+) %d+ %d+ (%w+)(.*)$')
    state.place_end, state.properties = epoch .. flags, '{"epoch":"' .. epoch .. '","ordinal":"'
    if flags ~= '' then
      state.is_channel = string.find(flags, 'c', 1, true) ~= nil
      if string.find(flags, 'd', 1, true) then state.refused = 'EDISSOLVED' end
      if state.is_channel then state.properties = '{"channel":"1",' .. string.sub(state.properties, 2) end
    end
    state.head, state.messages = tonumber(head), tonumber(messages)
    to_member(state, user, values[2])
  end
  return state
end

local replies = {}
local records = {}
local fresh = {}
local at = first
for i = 1, send_count do
  local field = fields[i]
  local duplicate = known[i] or known_before[i] or fresh[field]
  if duplicate then
    replies[i] = 'D' .. duplicate
  else
    local user = args[at + 1]
    local state = states[args[at]] or load_state(args[at], user)
    local member = state.members[user]
    if not member and not state.refused then
      member = to_member(state, user, call('HGET', state.members_key, user))
    end
    local refused = state.refused or member.refused
    local reply_to = args[at + 4]
    if not refused and reply_to ~= '0' and tonumber(reply_to) > state.head then refused = 'EREPLY_TO' end
    if not refused and is_full then refused = 'EFULL' end
    if refused then
      replies[i] = refused
    else
      local seq = format('%d', state.head + 1)
      local ordinal = format('%d', state.messages + 1)
      local record = '{"seq":' .. seq .. ',' .. args[at + 5]
      local appended = pcall('XADD', state.log, seq .. '-' .. ordinal, 'm', record)
      if type(appended) == 'table' then
        replies[i] = 'EINTERNAL'
      else
        state.head, state.messages = state.head + 1, state.messages + 1
        state.seq, state.ordinal = seq, ordinal
        member.read = seq .. ' ' .. ordinal
        mq_append(events, args[at + 6], 'im.message.created', state.id, seq, record, state.properties .. ordinal .. args[at + 7])
        local dedupe = seq .. args[at + 3]
        fresh[field] = dedupe
        records[#records + 1] = field
        records[#records + 1] = dedupe
        replies[i] = state.head
      end
    end
  end
  at = at + SEND_ARGS
end

if #records > 0 then
  call('HSET', sent, unpack(records))
  call('PEXPIRE', sent, 2 * generation_ms, 'NX')
  local now_text = format('%.0f', now_ms)
  for _, state in pairs(states) do
    if state.seq then
      local values = { '#', state.seq .. ' ' .. state.ordinal .. ' ' .. now_text .. ' ' .. state.seq .. ' ' .. state.place_end }
      for user, member in pairs(state.members) do
        if member.read then
          values[#values + 1] = user
          values[#values + 1] = member.head .. ' ' .. member.read
        end
      end
      call('HSET', state.members_key, unpack(values))
    end
  end
end
return replies
