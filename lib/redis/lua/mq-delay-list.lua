#!lua flags=no-writes
-- The delayed messages of one partition that wait, by due time, behind a place in that order.
--
-- Reads two keys. The place is a due ms and an id, of a message that may be gone. Looks at `scan_max` of them, for one topic or
-- ('') all, and hands out at most `wanted`.
-- Returns {1 when nothing is left behind what was looked at, due ms and id of the last one looked at or '', and id and record of
-- each that matches}.
local records = KEYS[1]
local due = KEYS[2]
local after_due = ARGV[1]
local after_id = ARGV[2]
local topic = ARGV[3]
local scan_max = tonumber(ARGV[4])
local wanted = tonumber(ARGV[5])

-- Those of one due time are ordered by id: the first behind the place is found by halving.
local first = redis.call('ZCOUNT', due, '-inf', '(' .. after_due)
local last = redis.call('ZCOUNT', due, '-inf', after_due)
while first < last do
  local middle = math.floor((first + last) / 2)
  if redis.call('ZRANGE', due, middle, middle)[1] <= after_id then first = middle + 1 else last = middle end
end

local found = { 1, '', '' }
local ids = redis.call('ZRANGE', due, first, first + scan_max - 1, 'WITHSCORES')
if #ids == 2 * scan_max then found[1] = 0 end
for i = 1, #ids, 2 do
  local text = redis.call('HGET', records, ids[i])
  found[2], found[3] = ids[i + 1], ids[i]
  if text and (topic == '' or string.match(text, '^%a %d+ %d+ %d+ %d+ %d+ (%S+)') == topic) then
    found[#found + 1] = ids[i]
    found[#found + 1] = text
    if #found == 3 + 2 * wanted then
      if i + 2 <= #ids then found[1] = 0 end
      break
    end
  end
end
return found
