#!lua
-- Fragment: delayed messages of one partition: how one begins, is found, and ends. Put behind mq-append.lua.
--
-- `shelf` is { records = , due = , ended = , relay = }: the keys delayed, delayedDue and delayedEnded of lib/redis/keys.ts, and
-- the partition of the topic im.relay, by which the timers hear of a record. A script calls mq_delay_check, and checks the type
-- of the topic's stream, before its first write; then nothing here fails.
--
-- Two fields of `records` are one record; only a PENDING one has the second, and only it is in `due`, all others in `ended`:
--   <id>    <state> <version> <due ms> <created ms> <ended ms> <expire ms> <topic> <type> <key> <note> <condition JSON>
--   <id>:   <header>\n<data>, as the topic will hold them (`:` is in no id)
-- State 'P' PENDING · 'F' FIRED, note: its entry · 'C' CANCELLED · 'D' DROPPED, note: 'expired' or 'condition'. The version counts
-- moves, and tells a timer that it is no longer the record's. 0 is no time; key, note and condition may be empty.

-- Checks the types. Returns whether `count` more may wait beside those that do.
local function mq_delay_check(shelf, count, pending_max)
  redis.call('HLEN', shelf.records)
  redis.call('ZCARD', shelf.ended)
  redis.call('XLEN', shelf.relay)
  return redis.call('ZCARD', shelf.due) + count <= pending_max
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
  local told = '{"id":"' .. id .. '","version":' .. record.version .. ',"due":' .. record.due .. '}'
  mq_append(shelf.relay, id .. '.' .. record.version, 'delay', id, '', told, '')
end

-- The record's last state; what is left of it stays for a true answer until it is swept.
local function mq_delay_end(shelf, id, record, state, note, now_ms)
  record.state, record.note, record.ended = state, note, string.format('%.0f', now_ms)
  mq_delay_set(shelf, id, record)
  redis.call('HDEL', shelf.records, id .. ':')
  redis.call('ZREM', shelf.due, id)
  redis.call('ZADD', shelf.ended, record.ended, id)
end

-- Keeps a message until `due_ms`; one that is due already is appended to its topic's `stream` at once. `id` is a placed id of
-- this partition (lib/id.ts) and names record and message; known already, nothing changes. `condition`: JSON, or ''.
-- Returns the entry id when it was appended, else nil.
local function mq_delay(shelf, stream, now_ms, due_ms, condition, topic, id, message_type, key, sequence, data, properties,
  attributes)
  if redis.call('HEXISTS', shelf.records, id) == 1 then return nil end
  local late = attributes or ''
  if sequence ~= '' then late = (late == '' and '' or late .. ';') .. 'o=' .. sequence end
  local record = { state = 'P', version = '1', due = string.format('%.0f', due_ms), created = string.format('%.0f', now_ms),
    ended = '0', expires = string.match(';' .. late, ';x=(%d+)') or '0', topic = topic, message_type = message_type, key = key,
    note = '', condition = condition }
  if due_ms <= now_ms and condition == '' then
    local entry = mq_append(stream, id, message_type, key, sequence, data, properties, late)
    mq_delay_end(shelf, id, record, 'F', entry, now_ms)
    return entry
  end
  redis.call('HSET', shelf.records, id .. ':', mq_header(id, message_type, key, sequence, properties, late) .. '\n' .. data)
  mq_delay_wait(shelf, id, record)
  return nil
end
