#!lua flags=no-writes
-- Look through one partition of a topic for the entries of a message, by its id, without handing out their data.
--
-- Reads one key. From `from` to `to`, as XRANGE takes them, newest first when `is_reverse` is 1. Stops after `scan_max` entries or
-- `bytes_max` bytes.
-- Returns {matches, the last entry looked at or '', entries looked at, 1 when nothing is left behind it}; a match is {entry, header,
-- bytes of data}.
local stream = KEYS[1]
local from = ARGV[1]
local to = ARGV[2]
local is_reverse = ARGV[3]
local id = ARGV[4]
local scan_max = tonumber(ARGV[5])
local bytes_max = tonumber(ARGV[6])

-- Bodies have up to 256 KB: not more of them at a time than are soon copied.
local STEP = 32
local command = is_reverse == '1' and 'XREVRANGE' or 'XRANGE'
local wanted = id .. ' '

local found, last, scanned, bytes = {}, '', 0, 0
while scanned < scan_max and bytes < bytes_max do
  local entries = redis.call(command, stream, from, to, 'COUNT', STEP)
  for _, entry in ipairs(entries) do
    local header, data = entry[2][1], entry[2][2]
    local start = string.byte(header) == 64 and (string.find(header, ' ', 1, true) or 0) + 1 or 1
    if string.sub(header, start, start + #id) == wanted then found[#found + 1] = { entry[1], header, #data } end
    bytes = bytes + #header + #data
  end
  scanned = scanned + #entries
  if #entries > 0 then last = entries[#entries][1] end
  if #entries < STEP then return { found, last, scanned, 1 } end
  from = '(' .. last
end
return { found, last, scanned, 0 }
