#!lua
-- Note what became of an item of a user's agenda whose message, `record`, has come.
--
-- Atomic; all keys are of the user's partition. Again changes nothing: the first note stays.
-- Returns the item as im-agenda.lua has it, or nil when it is no more, or waits for another message by now.
local items = KEYS[1]
local listed = KEYS[2]
local ended = KEYS[3]
local id = ARGV[1]
local record = ARGV[2]
local state = ARGV[3]
local note = ARGV[4]
local is_listed = ARGV[5]
local waiting_max = tonumber(ARGV[6])
local kept_ms = tonumber(ARGV[7])
local expiry_ms = ARGV[8]

local agenda = agenda_open(items, listed, ended)
local item = agenda_get(agenda, id)
if not item or item.record ~= record then return nil end
if item.state == 'W' then
  local now_ms = im_now()
  item.note = note
  agenda_end(agenda, item, state, is_listed == '1', now_ms, expiry_ms)
  agenda_sweep(agenda, now_ms, kept_ms, waiting_max)
end
return agenda_reply(agenda, item.id)
