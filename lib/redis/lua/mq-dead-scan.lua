#!lua flags=no-writes
-- Look through a group's dead letters in one partition for those that match, without handing out their bodies.
--
-- Reads one key. From `from` to `to`, as XRANGE takes them, newest first when `is_reverse` is 1. Conditions that are '' are not
-- looked at: the order key, the message's id, a text in any of the errors (plain, and as JSON escapes it in the history).
-- Stops at `wanted` matches, `scan_max` letters or `bytes_max` bytes of bodies, whichever comes first.
-- Returns {matches, the last letter looked at or '', 1 when nothing is left behind it}; a match is {id, bytes}.
local dead = KEYS[1]
local from = ARGV[1]
local to = ARGV[2]
local is_reverse = ARGV[3]
local key = ARGV[4]
local id = ARGV[5]
local error_text = ARGV[6]
local error_json = ARGV[7]
local wanted = tonumber(ARGV[8])
local scan_max = tonumber(ARGV[9])
local bytes_max = tonumber(ARGV[10])

-- Bodies have up to 256 KB: not more of them at a time than are soon copied.
local STEP = 16
local command = is_reverse == '1' and 'XREVRANGE' or 'XRANGE'

-- Few are asked for, so a table of all would cost more than looking through the names.
local function field(fields, name)
  for j = 1, #fields, 2 do
    if fields[j] == name then return fields[j + 1] end
  end
  return ''
end

local function matches(fields)
  if key ~= '' and field(fields, 'k') ~= key then return false end
  if id ~= '' and field(fields, 'i') ~= id then return false end
  if error_text == '' then return true end
  return string.find(field(fields, 'error'), error_text, 1, true) ~= nil
    or string.find(field(fields, 'history'), error_json, 1, true) ~= nil
end

local found, last, scanned, bytes = {}, '', 0, 0
while true do
  local letters = redis.call(command, dead, from, to, 'COUNT', STEP)
  for i, letter in ipairs(letters) do
    local fields = letter[2]
    local size = #field(fields, 'd') + #field(fields, 'p')
    last, scanned, bytes = letter[1], scanned + 1, bytes + size
    if matches(fields) then found[#found + 1] = { last, size } end
    if #found >= wanted or scanned >= scan_max or bytes >= bytes_max then
      return { found, last, (i == #letters and i < STEP) and 1 or 0 }
    end
  end
  if #letters < STEP then return { found, last, 1 } end
  from = '(' .. last
end
