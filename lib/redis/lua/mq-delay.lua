#!lua
-- Fragment: delayed messages of one partition: how one begins, is found, and ends. Put behind mq-append.lua.
--
-- `shelf` is { records = , due = , ended = , relay = }: the keys delayed, delayedDue and delayedEnded of lib/redis/keys.ts, and
-- the partition of the topic im.relay, by which the timers hear of a record. A script checks the types of those that it uses
-- before its first write (mq_delay_check: of all four); then nothing here fails.
--
-- Two fields of `records` are one record; only a PENDING one has the second, and only it is in `due`, all others in `ended`:
--   <id>    <state> <version> <due ms> <created ms> <ended ms> <expire ms> <topic> <type> <key> <note> <condition JSON>
--   <id>:   <header>\n<data>, as the topic will hold them (`:` is in no id)
-- State 'P' PENDING · 'F' FIRED, note: its entry · 'C' CANCELLED · 'D' DROPPED, note: 'expired' or 'condition'. The version counts
-- moves: it tells a timer that it is no longer the record's. 0 is no time; key, note and condition may be empty.

-- Checks the types. Returns how many more may wait beside those that do.
local function mq_delay_check(shelf, pending_max)
  redis.call('HLEN', shelf.records)
  redis.call('ZCARD', shelf.ended)
  redis.call('XLEN', shelf.relay)
  return pending_max - redis.call('ZCARD', shelf.due)
end

-- A record as a table of strings, or nil when there is none under this id.
local function mq_delay_get(shelf, id)
  local text = redis.call('HGET', shelf.records, id)
  if not text then return nil end
  local state, version, due, created, ended, expires, topic, message_type, key, note, condition =
    string.match(text, '^(%a) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (%S*) (%S*) (.*)$')
  return { state = state, version = version, due = due, created = created, ended = ended, expires = expires, topic = topic,
    message_type = message_type, key = key, note = note, condition = condition }
end

local function mq_delay_set(shelf, id, record)
  redis.call('HSET', shelf.records, id, table.concat({ record.state, record.version, record.due, record.created, record.ended,
    record.expires, record.topic, record.message_type, record.key, record.note, record.condition }, ' '))
end

-- Puts a PENDING record where its due time has it, and tells the timers.
local function mq_delay_wait(shelf, id, record)
  mq_delay_set(shelf, id, record)
  redis.call('ZADD', shelf.due, record.due, id)
  local timer = '{"record":"' .. id .. '","version":' .. record.version .. ',"due":' .. record.due .. '}'
  mq_append(shelf.relay, id .. '.' .. record.version, 'timer', id, '', timer, '')
end

-- Gives a PENDING record another due time; one in the past is now. The same changes nothing.
local function mq_delay_move(shelf, id, record, at_ms, now_ms)
  if at_ms == tonumber(record.due) then return end
  record.due = string.format('%.0f', math.max(at_ms, now_ms))
  record.version = string.format('%.0f', tonumber(record.version) + 1)
  mq_delay_wait(shelf, id, record)
end

-- The record's last state. What is left of it stays for a true answer until it is swept.
local function mq_delay_end(shelf, id, record, state, note, now_ms)
  record.state, record.note, record.ended = state, note, string.format('%.0f', now_ms)
  mq_delay_set(shelf, id, record)
  redis.call('HDEL', shelf.records, id .. ':')
  redis.call('ZREM', shelf.due, id)
  redis.call('ZADD', shelf.ended, record.ended, id)
end

-- Keeps a message until `due_ms`; one that is due already and asks for no condition is appended to its topic's `stream` at once.
-- `header` and `data` as the topic would hold them, the header's id a placed id of this partition (lib/id.ts): it names the
-- record, and one that is known already is left as it is, with the same answer. `condition`: JSON (lib/mq/condition.ts), or ''. A message with a
-- sequence carries it as its origin, for it comes later than its place.
-- Returns the entry id when it was appended, else nil, and the ms when it is due.
local function mq_delay(shelf, stream, now_ms, due_ms, condition, topic, header, data)
  local attributes, rest = string.match(header, '^@(%S+) (.*)$')
  local id, message_type, key, sequence = string.match(rest or header, '^(%S+) (%S+) (%S*) (%S*) ')
  local known = mq_delay_get(shelf, id)
  if known then return known.state == 'F' and known.note or nil, tonumber(known.due) end
  if sequence ~= '' then
    header = '@' .. (attributes and attributes .. ';' or '') .. 'o=' .. sequence .. ' ' .. (rest or header)
  end
  due_ms = math.max(due_ms, now_ms)
  local record = { state = 'P', version = '1', due = string.format('%.0f', due_ms), created = string.format('%.0f', now_ms),
    ended = '0', expires = string.match(';' .. (attributes or ''), ';x=(%d+)') or '0', topic = topic,
    message_type = message_type, key = key, note = '', condition = condition }
  if due_ms == now_ms and condition == '' then
    local entry = redis.call('XADD', stream, '*', header, data)
    mq_delay_end(shelf, id, record, 'F', entry, now_ms)
    return entry, due_ms
  end
  redis.call('HSET', shelf.records, id .. ':', header .. '\n' .. data)
  mq_delay_wait(shelf, id, record)
  return nil, due_ms
end
