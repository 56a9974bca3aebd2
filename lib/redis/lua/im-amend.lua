#!lua
-- Edit a message, recall it, or react to it: a timeline entry, its event, and what the message looks like from now on.
--
-- One partition's hash tag; permission, entry, folded state and event are one commit. What is so already is no entry, so a
-- repeat changes nothing. A target that has left the hot window is given by the caller, who read it from the archive; it is
-- believed as long as no folded state has left Redis since then.
-- Returns {record, content, reactions} (the message's parts as they are now, '' for none); {"NEEDS_TARGET", trims} when the
-- target is in the archive only; or an error code as a string.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local events = KEYS[4]
local folds = KEYS[5]
local reactors = KEYS[6]
local event_groups = KEYS[7]
local id = ARGV[1]
local by = ARGV[2]
local action = ARGV[3]
local target = ARGV[4]
local event_id = ARGV[5]
local rights = ARGV[6]
local any_rights = ARGV[7]
local window_ms = tonumber(ARGV[8])
local body = ARGV[9]
local is_text = ARGV[10]
local emoji = ARGV[11]
local kinds_max = tonumber(ARGV[12])
local own_max = tonumber(ARGV[13])
local users_max = tonumber(ARGV[14])
local archived_as_of = ARGV[15]
local archived_record = ARGV[16]
local archived_content = ARGV[17]
local archived_reactions = ARGV[18]
local archived_own = ARGV[19]
local events_max = ARGV[20]
-- action: edit, recall, react, unreact. archived_as_of: the trims that were counted before the archive was read, or "-".

local state = im_load(conv, members)
local acting = redis.call('HGET', members, by)
local known = redis.call('HMGET', folds, '#', target .. 'c', target .. 'r')
local own = redis.call('HGET', reactors, by)
if not state or not acting then return 'NOT_MEMBER' end
if state.dissolved then return 'DISSOLVED' end
local now_ms = im_now()
local is_recall = action == 'recall'
if not im_may(rights, state, acting) and not (is_recall and im_may(any_rights, state, acting)) then return 'FORBIDDEN' end
local silenced = im_silenced(acting, now_ms)
if silenced and not is_recall then return silenced end
if tonumber(target) > state.head then return 'NOT_FOUND' end

local trims = known[1] or '0'
local content, reactions = known[2], known[3]
local record
local row = redis.call('XRANGE', log, target, target)[1]
if row then
  if row[2][1] ~= 'm' then return 'NOT_FOUND' end
  record = row[2][2]
elseif archived_as_of ~= trims then
  return {'NEEDS_TARGET', trims}
else
  record = archived_record
  content, reactions, own = content or archived_content, reactions or archived_reactions, own or archived_own
end
content, reactions, own = content or '', reactions or '', own or ''

-- The record's ids hold no quotes, so the first "from" and "type" are the message's own; of sentAt, which stands behind the
-- body, it is the last one.
local from, message_type = string.match(record, '"from":"([^"]*)","type":"([^"]*)"')
local body_at = string.find(record, ',"body":', 1, true)
local before_sent, sent_at = string.match(record, '^(.*),"sentAt":(%d+)')
local recalled_ms = string.match(content, '^%d+ %d+ (%d+)')
if recalled_ms and recalled_ms ~= '0' then
  if is_recall and (from == by or im_may(any_rights, state, acting)) then return { record, content, '' } end
  return 'RECALLED'
end

-- Where the list of reactions has the emoji, how often, and by whom.
local function kind_in(list)
  local from_at = string.find(list, '{"emoji":"' .. emoji .. '",', 1, true)
  if not from_at then return nil, nil, 0, '' end
  local to_at = string.find(list, '}', from_at, true)
  local count, users = string.match(list, '"count":(%d+),"users":%[(.-)%]', from_at)
  return from_at, to_at, tonumber(count), users
end

local function count_of(text, pattern)
  local _, count = string.gsub(text, pattern, '')
  return count
end

-- The list without `user`, or as it was.
local function without(users, user)
  local kept = {}
  for name in string.gmatch(users, '"[^"]*"') do
    if name ~= user then kept[#kept + 1] = name end
  end
  return table.concat(kept, ',')
end

-- The list with the emoji in its place as given; without it when nobody is left.
local function with_kind(list, from_at, to_at, count, users)
  local kind = count == 0 and '' or '{"emoji":"' .. emoji .. '","count":' .. count .. ',"users":[' .. users .. ']}'
  if not from_at then return list == '' and kind or list .. ',' .. kind end
  local before, after = string.sub(list, 1, from_at - 1), string.sub(list, to_at + 1)
  if kind ~= '' then return before .. kind .. after end
  if before ~= '' then return string.sub(before, 1, -2) .. after end
  return string.sub(after, 2)
end

local quoted_emoji, quoted_user = '"' .. emoji .. '"', '"' .. by .. '"'
local tail = '"id":"' .. event_id .. '","by":"' .. by .. '","at":' .. string.format('%.0f', now_ms) .. ',"target":' .. target
local at_seq = string.format('%d', state.head + 1)
local kind, event_type, extra = action, 'im.message.edited', ''
if action == 'edit' then
  if from ~= by then return 'FORBIDDEN' end
  if message_type == 'text' and is_text ~= '1' then return 'BODY' end
  local current = string.match(content, '^%d+ %d+ %d+ (.*)$') or string.sub(before_sent, body_at + 8)
  if current == body then return { record, content, reactions } end
  tail = tail .. ',"body":' .. body .. '}'
  content = at_seq .. string.format(' %.0f 0 ', now_ms) .. body
elseif is_recall then
  if not im_may(any_rights, state, acting) then
    if from ~= by then return 'FORBIDDEN' end
    if now_ms - tonumber(sent_at) > window_ms then return 'TOO_LATE' end
  end
  event_type = 'im.message.recalled'
  tail = tail .. '}'
  content = at_seq .. string.format(' 0 %.0f ', now_ms) .. '{}'
  reactions = ''
else
  kind, event_type = 'reaction', 'im.message.reacted'
  local is_on = action == 'react'
  local has = string.find(own, quoted_emoji, 1, true) ~= nil
  if is_on == has then return { record, content, reactions } end
  local list = string.match(reactions, '^%d+ %[(.*)%]$') or ''
  local from_at, to_at, count, users = kind_in(list)
  if is_on then
    if not from_at and count_of(list, '"emoji":') >= kinds_max then return 'KINDS' end
    if count_of(own, '"[^"]*"') >= own_max then return 'OWN_REACTIONS' end
    own = own == '' and quoted_emoji or own .. ',' .. quoted_emoji
    if count_of(users, '"[^"]*"') < users_max then users = (users == '' and '' or users .. ',') .. quoted_user end
    list = with_kind(list, from_at, to_at, count + 1, users)
  else
    own = without(own, quoted_emoji)
    list = with_kind(list, from_at, to_at, count - 1, without(users, quoted_user))
  end
  tail = tail .. ',"emoji":' .. quoted_emoji .. ',"on":' .. tostring(is_on) .. '}'
  extra = ',"reactions":[' .. list .. '],"own":[' .. own .. ']'
  reactions = at_seq .. ' [' .. list .. ']'
end

if im_is_full(events, event_groups, events_max) then return 'EVENTS_FULL' end
im_append_entry(log, events, id, state, kind, event_id, event_type, tail, extra)
redis.call('HSET', members, '#', im_place(state))
if kind == 'reaction' then
  redis.call('HSET', folds, target .. 'r', reactions)
  redis.call('HSET', reactors, by, own)
else
  redis.call('HSET', folds, target .. 'c', content)
end
if is_recall then
  redis.call('HDEL', folds, target .. 'r')
  redis.call('DEL', reactors)
end
return { record, content, reactions }
