#!lua
-- Cancel a delayed message: it will never be appended.
--
-- Atomic; all keys are of one partition. Again has no further effect and the same answer.
-- Returns 'ok', 'already_fired', or 'not_found' when there is none or it was dropped.
local records = KEYS[1]
local due = KEYS[2]
local ended = KEYS[3]
local id = ARGV[1]

redis.call('ZCARD', due)
redis.call('ZCARD', ended)
local shelf = { records = records, due = due, ended = ended }
local record = mq_delay_get(shelf, id)
if not record or record.state == 'D' then return 'not_found' end
if record.state == 'F' then return 'already_fired' end
if record.state == 'C' then return 'ok' end
local time = redis.call('TIME')
mq_delay_end(shelf, id, record, 'C', '', time[1] * 1000 + math.floor(time[2] / 1000))
return 'ok'
