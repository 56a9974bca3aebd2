#!lua
-- Fragment: what a user has put off, reminders or scheduled messages, each an item; put behind im-state.lua and mq-delay.lua.
--
-- `agenda` is { items = , listed = , ended = }: the keys agenda, agendaListed and agendaEnded of lib/redis/keys.ts. An item is three
-- fields of `items` (neither `:` nor `@` is in an id):
--   <id>      <state> <due ms> <created ms> <ended ms> <record> <digest> <client key> <note JSON>
--   <id>:     its content, JSON
--   @<client key>   <id>
-- State 'W' waiting · 'F' fired · 'R' refused · 'C' cancelled · 'D' fired and not to be shown. Whether a waiting one may still be
-- cancelled says its record, a delayed message of the same partition. All but the waiting ones are in `ended`.

-- Checks the types. Behind that nothing here fails.
local function agenda_open(items, listed, ended)
  redis.call('HLEN', items)
  redis.call('ZCARD', listed)
  redis.call('ZCARD', ended)
  return { items = items, listed = listed, ended = ended }
end

-- An item as a table of strings, or nil.
local function agenda_get(agenda, id)
  local text = redis.call('HGET', agenda.items, id)
  if not text then return nil end
  local state, due, created, ended, record, digest, client_key, note =
    string.match(text, '^(%a) (%d+) (%d+) (%d+) (%S+) (%S+) (%S+) (.*)$')
  return { id = id, state = state, due = due, created = created, ended = ended, record = record, digest = digest,
    client_key = client_key, note = note }
end

-- Stores an item; who writes last decides how long the user's agenda is kept.
local function agenda_set(agenda, item, is_listed, expiry_ms)
  redis.call('HSET', agenda.items, item.id, table.concat({ item.state, item.due, item.created, item.ended, item.record, item.digest,
    item.client_key, item.note }, ' '))
  if is_listed then
    redis.call('ZADD', agenda.listed, item.due, item.id)
  else
    redis.call('ZREM', agenda.listed, item.id)
  end
  if item.state == 'W' then
    redis.call('ZREM', agenda.ended, item.id)
  else
    redis.call('ZADD', agenda.ended, item.ended, item.id)
  end
  for _, key in pairs(agenda) do redis.call('PEXPIRE', key, expiry_ms) end
end

local function agenda_end(agenda, item, state, is_listed, now_ms, expiry_ms)
  item.state = state
  if item.ended == '0' then item.ended = string.format('%.0f', now_ms) end
  agenda_set(agenda, item, is_listed, expiry_ms)
end

-- How many more may wait.
local function agenda_room(agenda, waiting_max)
  return waiting_max - (redis.call('HLEN', agenda.items) / 3 - redis.call('ZCARD', agenda.ended))
end

-- Forgets items that ended long ago, and beyond `kept_max` the oldest; at most 100 of them, more than a call adds.
local function agenda_sweep(agenda, now_ms, kept_ms, kept_max)
  local old = redis.call('ZCOUNT', agenda.ended, '-inf', string.format('%.0f', now_ms - kept_ms))
  local count = math.min(100, math.max(old, redis.call('ZCARD', agenda.ended) - kept_max))
  if count <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGE', agenda.ended, 0, count - 1)) do
    local item = agenda_get(agenda, id)
    redis.call('HDEL', agenda.items, id, id .. ':', '@' .. item.client_key)
    redis.call('ZREM', agenda.listed, id)
    redis.call('ZREM', agenda.ended, id)
  end
end

-- The item as it is stored: {id, its field, its content}.
local function agenda_reply(agenda, id)
  return { id, redis.call('HGET', agenda.items, id), redis.call('HGET', agenda.items, id .. ':') }
end
