#!lua
-- Append messages to one partition of a topic, each at most once per dedupe id within the window.
--
-- Atomic; all keys are of one partition. A partition with `backlog_max` entries takes no more while a group is registered: whoever
-- reads must come first. A topic that nobody reads is never full.
-- ARGV behind the named ones: header and data of each of `count` messages, the header as mq_append joins it (an argument more per
-- message costs 0.15 µs here); then, when any has one, the dedupe id of each ('' for none).
-- Returns per message the entry id, {id, entry id} of the original when it is a duplicate, or 0 when there is no room.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local groups = KEYS[4]
local window_ms = tonumber(ARGV[1])
local backlog_max = tonumber(ARGV[2])
local count = tonumber(ARGV[3])

-- Reading checks the types; nothing behind it fails.
local room = backlog_max - redis.call('XLEN', stream)
if redis.call('HLEN', groups) == 0 then room = math.huge end

local replies = {}
local dedupes_at = 3 + 2 * count
if #ARGV == dedupes_at then
  for i = 1, count do
    replies[i] = i <= room and redis.call('XADD', stream, '*', ARGV[2 * i + 2], ARGV[2 * i + 3]) or 0
  end
  return replies
end

local time = redis.call('TIME')
local seen = mq_dedupe_open(even, odd, window_ms, time[1] * 1000 + math.floor(time[2] / 1000))
for i = 1, count do
  local header, dedupe_id = ARGV[2 * i + 2], ARGV[dedupes_at + i]
  local found = dedupe_id ~= '' and mq_dedupe_find(seen, dedupe_id)
  if not found and room <= 0 then
    found = 0
  elseif not found then
    room = room - 1
    found = redis.call('XADD', stream, '*', header, ARGV[2 * i + 3])
    local id = string.match(header, '^@%S* (%S+)') or string.match(header, '^%S+')
    if dedupe_id ~= '' then mq_dedupe_put(seen, dedupe_id, id, found) end
  end
  replies[i] = found
end
return replies
