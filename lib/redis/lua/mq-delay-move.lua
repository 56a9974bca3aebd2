#!lua
-- Give a delayed message another due time; one in the past is now.
--
-- Atomic; all keys are of one partition. The record's version grows and the timers are told; again to the same time changes
-- nothing.
-- Returns {'ok', due ms}, {'already_fired'}, or {'not_found'} when there is none or it was cancelled or dropped.
local records = KEYS[1]
local due = KEYS[2]
local relay = KEYS[3]
local id = ARGV[1]
local at_ms = tonumber(ARGV[2])

redis.call('ZCARD', due)
redis.call('XLEN', relay)
local shelf = { records = records, due = due, relay = relay }
local record = mq_delay_get(shelf, id)
if not record then return { 'not_found' } end
if record.state == 'F' then return { 'already_fired' } end
if record.state ~= 'P' then return { 'not_found' } end
local time = redis.call('TIME')
mq_delay_move(shelf, id, record, at_ms, time[1] * 1000 + math.floor(time[2] / 1000))
return { 'ok', record.due }
