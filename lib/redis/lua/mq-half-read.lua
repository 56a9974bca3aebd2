#!lua flags=no-writes
-- Look at one half message.
--
-- Reads; all keys are of one partition.
-- Returns {head, next check ms or '', message as mq_half_reply or {}}, or {}.
local half = KEYS[1]
local due = KEYS[2]
local id = ARGV[1]

local text = redis.call('HGET', half, id)
if not text then return {} end
local message = mq_half_message(half, id)
return { text, redis.call('ZSCORE', due, id) or '', message and mq_half_reply(message) or {} }
