#!lua
-- Put something off for a user: the item of his agenda, and the delayed message that brings it back.
--
-- Atomic; all keys are of the user's partition. Once per client key as long as the item is remembered, so again changes nothing and
-- has the same answer. With `is_past_now` 1 a time that has passed is now; else nothing is written for one. Redis TIME decides.
-- Returns the item as im-agenda.lua has it, or 'PAST', 'CONFLICT' (the client key is another item's), 'FULL' (the user's agenda), or
-- 'BUSY' (the partition's delayed messages).
local items = KEYS[1]
local listed = KEYS[2]
local ended = KEYS[3]
local stream = KEYS[4]
local records = KEYS[5]
local records_due = KEYS[6]
local records_ended = KEYS[7]
local relay = KEYS[8]
local id = ARGV[1]
local client_key = ARGV[2]
local digest = ARGV[3]
local content = ARGV[4]
local due_ms = tonumber(ARGV[5])
local is_past_now = ARGV[6]
local record = ARGV[7]
local topic = ARGV[8]
local header = ARGV[9]
local data = ARGV[10]
local waiting_max = tonumber(ARGV[11])
local pending_max = tonumber(ARGV[12])
local kept_ms = tonumber(ARGV[13])
local expiry_ms = ARGV[14]

local agenda = agenda_open(items, listed, ended)
local shelf = { records = records, due = records_due, ended = records_ended, relay = relay }
local room = mq_delay_check(shelf, pending_max)
redis.call('XLEN', stream)
local now_ms = im_now()

local known = redis.call('HGET', items, '@' .. client_key)
if known then
  local item = agenda_get(agenda, known)
  if item.digest ~= digest then return 'CONFLICT' end
  return agenda_reply(agenda, item.id)
end
if due_ms <= now_ms and is_past_now ~= '1' then return 'PAST' end
if agenda_room(agenda, waiting_max) < 1 then return 'FULL' end
if room < 1 then return 'BUSY' end
due_ms = math.max(due_ms, now_ms)
mq_delay(shelf, stream, now_ms, due_ms, '', topic, header, data)
local item = { id = id, state = 'W', due = string.format('%.0f', due_ms), created = string.format('%.0f', now_ms), ended = '0',
  record = record, digest = digest, client_key = client_key, note = '' }
redis.call('HSET', items, id .. ':', content, '@' .. client_key, id)
agenda_set(agenda, item, true, expiry_ms)
agenda_sweep(agenda, now_ms, kept_ms, waiting_max)
return agenda_reply(agenda, item.id)
