#!lua
-- Append one message to a partition of a topic together with writes to keys of the user's own: both or neither.
--
-- Atomic; all keys are of one partition, the own ones behind the named. At most once per dedupe id within the topic's window,
-- so again changes nothing. ARGV behind the named ones: the writes, as mq-writes.lua takes them.
-- Returns {'appended', entry id}, {'duplicate', original's id, its entry id}, {'refused', number of the write, why}, or {'full'}
-- when the topic is (mq-publish.lua).
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local groups = KEYS[4]
local window_ms = tonumber(ARGV[1])
local backlog_max = tonumber(ARGV[2])
local id = ARGV[3]
local message_type = ARGV[4]
local key = ARGV[5]
local sequence = ARGV[6]
local data = ARGV[7]
local properties = ARGV[8]
local attributes = ARGV[9]
local dedupe_id = ARGV[10]

local length, readers = redis.call('XLEN', stream), redis.call('HLEN', groups)
local is_full = length >= backlog_max and readers > 0
local time = redis.call('TIME')
local seen = mq_dedupe_open(even, odd, window_ms, time[1] * 1000 + math.floor(time[2] / 1000))
local original = mq_dedupe_find(seen, dedupe_id)
if original then return { 'duplicate', original[1], original[2] } end
if is_full then return { 'full' } end
local writes = mq_writes_read(11, 4)
local refusal = mq_writes_refusal(writes)
if refusal then return { 'refused', refusal[1], refusal[2] } end

local entry = mq_append(stream, id, message_type, key, sequence, data, properties, attributes)
mq_dedupe_put(seen, dedupe_id, id, entry)
mq_writes_apply(writes)
return { 'appended', entry }
