#!lua
-- Give an item of a user's agenda another due time; one in the past is now. With `record` (a new delayed message's id, else '') one that
-- has fired is made to wait again.
--
-- Atomic; all keys are of the user's partition. Again to the same time changes nothing: the item waits by then.
-- Returns 'ok', 'already_fired', 'not_found' (also of a cancelled one), or to wait again 'FULL' or 'BUSY', as im-agenda-create.lua.
local items = KEYS[1]
local listed = KEYS[2]
local ended = KEYS[3]
local stream = KEYS[4]
local records = KEYS[5]
local records_due = KEYS[6]
local records_ended = KEYS[7]
local relay = KEYS[8]
local id = ARGV[1]
local at_ms = tonumber(ARGV[2])
local record = ARGV[3]
local topic = ARGV[4]
local header = ARGV[5]
local data = ARGV[6]
local waiting_max = tonumber(ARGV[7])
local pending_max = tonumber(ARGV[8])
local expiry_ms = ARGV[9]

local agenda = agenda_open(items, listed, ended)
local shelf = { records = records, due = records_due, ended = records_ended, relay = relay }
local room = mq_delay_check(shelf, pending_max)
redis.call('XLEN', stream)
local now_ms = im_now()

local item = agenda_get(agenda, id)
if not item or item.state == 'C' then return 'not_found' end
local is_waiting = item.state == 'W'
local kept = is_waiting and mq_delay_get(shelf, item.record)
if kept and kept.state == 'P' then
  mq_delay_move(shelf, item.record, kept, at_ms, now_ms)
  item.due = kept.due
  agenda_set(agenda, item, true, expiry_ms)
  return 'ok'
end
-- An operator took its message out of the queue.
if kept and kept.state ~= 'F' then return 'not_found' end
if record == '' or item.state == 'R' then return 'already_fired' end
if item.record == record then return 'ok' end
if not is_waiting and agenda_room(agenda, waiting_max) < 1 then return 'FULL' end
if room < 1 then return 'BUSY' end
local due_ms = math.max(at_ms, now_ms)
mq_delay(shelf, stream, now_ms, due_ms, '', topic, header, data)
item.state, item.due, item.ended, item.record, item.note = 'W', string.format('%.0f', due_ms), '0', record, ''
agenda_set(agenda, item, true, expiry_ms)
return 'ok'
