#!lua flags=allow-oom
-- Let a parked key of an ordered group go on: its first message is due now, with all its attempts before it.
--
-- Atomic; all keys are of one partition. Again has no effect.
-- Returns 1, or 0 when the key is not parked.
local aside = KEYS[1]
local aside_due = KEYS[2]
local side = KEYS[3]
local side_order = KEYS[4]
local key = ARGV[1]

local queue = { aside = aside, due = aside_due, side = side, order = side_order }
mq_side_check(queue)
local record = mq_side_get(queue, key)
if not record or record.state ~= 'p' then return 0 end
local time = redis.call('TIME')
record.state, record.failed, record.losses, record.first, record.history = 'r', 0, 0, '0', '[]'
mq_side_set(queue, key, record, time[1] * 1000 + math.floor(time[2] / 1000))
return 1
