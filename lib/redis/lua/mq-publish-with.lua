#!lua
-- Append one message to a partition of a topic, or keep it until it is due, together with writes to keys of the user's own: both or
-- neither.
--
-- Atomic; all keys are of one partition, and all of them and all arguments behind the first are the effect's, as mq-effect.lua takes
-- it. At most once per dedupe id within the topic's window, so again changes nothing.
-- Returns {'done', id, entry id or @ and due ms, 1 when it is a duplicate, which writes nothing}, {'full'} when there is no room, or
-- {'write', number of the write that is not possible, why}.
local stream = KEYS[1]
local dedupe_id = ARGV[1]

redis.call('XLEN', stream)
local time = redis.call('TIME')
local plan = mq_effect_plan(time[1] * 1000 + math.floor(time[2] / 1000))
local effect = mq_effect_read(2, 0)
local refusal = mq_effect_refusal(plan, effect)
local original = mq_dedupe_find(plan.seen[stream], dedupe_id)
if original then return { 'done', original[1], original[2], 1 } end
if refusal then return refusal end
local outcome = mq_effect_apply(plan, effect)[1]
return { 'done', outcome[1], outcome[2], outcome[3] }
