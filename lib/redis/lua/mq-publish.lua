#!lua
-- Append messages to one partition of a topic, each at most once per dedupe id within the window.
--
-- Atomic; all keys are of one partition.
-- ARGV behind the window, per message: id, type, key, sequence, data, properties, attributes, dedupe id ('' for none).
-- Returns per message the entry id, or {id, entry id} of the original when it is a duplicate.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local window_ms = tonumber(ARGV[1])

-- Reading checks the types; nothing behind it fails.
redis.call('XLEN', stream)
local time = redis.call('TIME')
local seen = mq_dedupe_open(even, odd, window_ms, time[1] * 1000 + math.floor(time[2] / 1000))

local replies = {}
for i = 2, #ARGV, 8 do
  local dedupe_id = ARGV[i + 7]
  local found = dedupe_id ~= '' and mq_dedupe_find(seen, dedupe_id)
  if not found then
    found = mq_append(stream, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6])
    if dedupe_id ~= '' then mq_dedupe_put(seen, dedupe_id, ARGV[i], found) end
  end
  replies[#replies + 1] = found
end
return replies
