#!lua
-- Append one message to a partition of a topic together with writes to keys of the user's own: both or neither.
--
-- Atomic; all keys are of one partition, the own ones behind the named. At most once per dedupe id within the topic's window,
-- so again changes nothing. ARGV behind the named ones: the writes, as mq-writes.lua takes them.
-- Returns {'appended', entry id}, {'duplicate', original's id, its entry id}, or {'refused', number of the write, why}.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local window_ms = tonumber(ARGV[1])
local id = ARGV[2]
local message_type = ARGV[3]
local key = ARGV[4]
local sequence = ARGV[5]
local data = ARGV[6]
local properties = ARGV[7]
local attributes = ARGV[8]
local dedupe_id = ARGV[9]

redis.call('XLEN', stream)
local time = redis.call('TIME')
local seen = mq_dedupe_open(even, odd, window_ms, time[1] * 1000 + math.floor(time[2] / 1000))
local original = mq_dedupe_find(seen, dedupe_id)
if original then return { 'duplicate', original[1], original[2] } end
local writes = mq_writes_read(10, 3)
local refusal = mq_writes_refusal(writes)
if refusal then return { 'refused', refusal[1], refusal[2] } end

local entry = mq_append(stream, id, message_type, key, sequence, data, properties, attributes)
mq_dedupe_put(seen, dedupe_id, id, entry)
mq_writes_apply(writes)
return { 'appended', entry }
