#!lua
-- Cancel an item of a user's agenda, or, when it has fired, show it no more.
--
-- Atomic; all keys are of the user's partition. Again has no further effect and the same answer.
-- Returns 'ok' (also of a refused one: it is shown no more), 'already_fired', or 'not_found'.
local items = KEYS[1]
local listed = KEYS[2]
local ended = KEYS[3]
local records = KEYS[4]
local records_due = KEYS[5]
local records_ended = KEYS[6]
local id = ARGV[1]
local expiry_ms = ARGV[2]

local agenda = agenda_open(items, listed, ended)
redis.call('HLEN', records)
redis.call('ZCARD', records_due)
redis.call('ZCARD', records_ended)
local shelf = { records = records, due = records_due, ended = records_ended }
local now_ms = im_now()

local item = agenda_get(agenda, id)
if not item then return 'not_found' end
if item.state == 'C' then return 'ok' end
if item.state == 'D' then return 'already_fired' end
if item.state == 'F' then
  agenda_end(agenda, item, 'D', false, now_ms, expiry_ms)
  return 'already_fired'
end
if item.state == 'W' then
  local kept = mq_delay_get(shelf, item.record)
  -- Fired, and its message is on the way; or even forgotten by the queue.
  if not kept or kept.state == 'F' then return 'already_fired' end
  if kept.state == 'P' then mq_delay_end(shelf, item.record, kept, 'C', '', now_ms) end
end
agenda_end(agenda, item, 'C', false, now_ms, expiry_ms)
return 'ok'
