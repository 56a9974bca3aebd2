#!lua
-- Append messages to one partition of a topic, each at most once per dedupe id within the window.
--
-- Atomic; all keys are of one partition. A partition with `backlog_max` entries takes no more while a group is registered: whoever
-- reads must come first. A topic that nobody reads is never full.
-- ARGV behind the named ones, per message: id, type, key, sequence, data, properties, attributes, dedupe id ('' for none).
-- Returns per message the entry id, {id, entry id} of the original when it is a duplicate, or 0 when there is no room.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local groups = KEYS[4]
local window_ms = tonumber(ARGV[1])
local backlog_max = tonumber(ARGV[2])

-- Reading checks the types; nothing behind it fails.
local room = backlog_max - redis.call('XLEN', stream)
if redis.call('HLEN', groups) == 0 then room = math.huge end
local time = redis.call('TIME')
local seen = mq_dedupe_open(even, odd, window_ms, time[1] * 1000 + math.floor(time[2] / 1000))

local replies = {}
for i = 3, #ARGV, 8 do
  local dedupe_id = ARGV[i + 7]
  local found = dedupe_id ~= '' and mq_dedupe_find(seen, dedupe_id)
  if not found and room <= 0 then
    found = 0
  elseif not found then
    room = room - 1
    found = mq_append(stream, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6])
    if dedupe_id ~= '' then mq_dedupe_put(seen, dedupe_id, ARGV[i], found) end
  end
  replies[#replies + 1] = found
end
return replies
