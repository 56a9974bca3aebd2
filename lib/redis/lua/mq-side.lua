#!lua
-- Fragment: the side queue of an ordered group in one partition: messages of keys that cannot go on now, in order per key.
--
-- `queue` is { aside = , due = , side = , order = }: the four keys, as lib/redis/keys.ts describes them. A script calls
-- mq_side_check before its first write; then nothing here fails for a key's type. All of it costs O(log n) per message.
--
-- Holds at all times: a key has a record in `aside` exactly while it has messages; its record is in `due`, by the ms when its
-- first message may be handed out (or is taken back), exactly while it is not parked. So put makes the record that is
-- missing, remove drops it with the last message, and set moves it in or out of `due`.
--
-- A record is a table of strings and numbers; its counts are those of the key's first message:
--   state     'r' ready or waiting for its retry · 'h' in hand of the partition's holder, under `token` ·
--             'o' out to a service, under `token`, until `until_ms` · 'p' parked until unpark
--   since     ms, when the key came aside
--   failed    counted failures · losses: those who vanished with it in hand or out
--   first     ms of the first failure, 0 when none · history: JSON [[ms, member, error], ...]
-- The key of a message that has none is its entry id.

local function mq_side_check(queue)
  redis.call('HLEN', queue.aside)
  redis.call('ZCARD', queue.due)
  redis.call('HLEN', queue.side)
  redis.call('ZCARD', queue.order)
end

-- The record of a key, or nil when the key does not stand aside.
local function mq_side_get(queue, key)
  local text = redis.call('HGET', queue.aside, key)
  if not text then return nil end
  local state, since, failed, losses, first, token, until_ms, history =
    string.match(text, '^(%a) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  return { state = state, since = since, failed = tonumber(failed), losses = tonumber(losses), first = first, token = token,
    until_ms = tonumber(until_ms), history = history }
end

-- Stores the record of a key that has messages aside. `due_ms`: when it is to be looked at, nil to leave that as it is.
local function mq_side_set(queue, key, record, due_ms)
  redis.call('HSET', queue.aside, key, string.format('%s %s %.0f %.0f %s %s %.0f ', record.state, record.since, record.failed,
    record.losses, record.first, record.token, record.until_ms) .. record.history)
  if record.state == 'p' then
    redis.call('ZREM', queue.due, key)
  elseif due_ms then
    redis.call('ZADD', queue.due, string.format('%.0f', due_ms), key)
  end
end

local function mq_side_fresh(now_ms)
  return { state = 'r', since = string.format('%.0f', now_ms), failed = 0, losses = 0, first = '0', token = '0', until_ms = 0,
    history = '[]' }
end

local function mq_side_member(key, entry)
  local ms, count = string.match(entry, '^(%d+)-(%d+)$')
  return key .. ' ' .. string.format('%015.0f%010.0f', tonumber(ms), tonumber(count))
end

-- The key and the entry of a member of `order`.
local function mq_side_of(member)
  return string.sub(member, 1, -27),
    string.format('%.0f-%.0f', tonumber(string.sub(member, -25, -11)), tonumber(string.sub(member, -10)))
end

-- Adds a message behind the others of its key; a key without a record gets one, ready now. Again has no effect while it is there.
local function mq_side_put(queue, key, entry, header, data, now_ms)
  if redis.call('HSETNX', queue.side, entry, #header .. ' ' .. header .. data) == 0 then return end
  redis.call('ZADD', queue.order, 0, mq_side_member(key, entry))
  if redis.call('HEXISTS', queue.aside, key) == 0 then mq_side_set(queue, key, mq_side_fresh(now_ms), now_ms) end
end

-- The first messages of a key, behind the entry `after` unless that is nil: a list of { entry, header, data } of at most `count`,
-- and, beyond the first, `bytes_max` bytes; and its bytes.
local function mq_side_first(queue, key, after, count, bytes_max)
  local from = after and '(' .. mq_side_member(key, after) or '[' .. key .. ' '
  local found, bytes = {}, 0
  for _, member in ipairs(redis.call('ZRANGEBYLEX', queue.order, from, '(' .. key .. '!', 'LIMIT', 0, count)) do
    local _, entry = mq_side_of(member)
    local text = redis.call('HGET', queue.side, entry)
    if #found > 0 and bytes + #text > bytes_max then break end
    bytes = bytes + #text
    local blank = string.find(text, ' ', 1, true)
    local last = blank + tonumber(string.sub(text, 1, blank - 1))
    found[#found + 1] = { entry, string.sub(text, blank + 1, last), string.sub(text, last + 1) }
  end
  return found, bytes
end

-- Removes the first message of a key; its counts go with it, and with the last message the record. Returns whether the key still
-- stands aside. Again changes nothing.
local function mq_side_remove(queue, key, entry)
  local was_there = redis.call('HDEL', queue.side, entry) == 1
  redis.call('ZREM', queue.order, mq_side_member(key, entry))
  if redis.call('ZLEXCOUNT', queue.order, '[' .. key .. ' ', '(' .. key .. '!') == 0 then
    redis.call('HDEL', queue.aside, key)
    redis.call('ZREM', queue.due, key)
    return false
  end
  local record = was_there and mq_side_get(queue, key)
  if record and (record.failed > 0 or record.losses > 0) then
    record.failed, record.losses, record.first, record.history = 0, 0, '0', '[]'
    mq_side_set(queue, key, record)
  end
  return true
end
