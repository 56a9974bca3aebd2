#!lua flags=allow-oom
-- Give an expired half message a new budget of checks, the first of them now.
--
-- Atomic; all keys are of one partition. Again has no further effect, and none on one that is prepared or decided.
-- Returns {state that it had}, {'many'} when so many are open already, or {}.
local half = KEYS[1]
local due = KEYS[2]
local prepared = KEYS[3]
local expired = KEYS[4]
local id = ARGV[1]
local budget_ms = tonumber(ARGV[2])
local open_max = tonumber(ARGV[3])

local text = redis.call('HGET', half, id)
redis.call('ZCARD', due)
redis.call('ZCARD', expired)
local open = redis.call('ZCARD', prepared)
if not text then return {} end
local head = mq_half_head(text)
if head.state ~= 'x' then return { head.state } end
if open >= open_max then return { 'many' } end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
head.state, head.checks = 'p', 0
redis.call('HSET', half, id, mq_half_head_text(head))
redis.call('ZREM', expired, id)
redis.call('ZADD', due, string.format('%.0f', now_ms), id)
redis.call('ZADD', prepared, string.format('%.0f', now_ms + budget_ms), id)
return { 'x' }
