#!lua
-- Ack deliveries of a concurrent group in one partition together with the messages and writes of their transaction: all or nothing.
--
-- Atomic and fenced; all keys are of one partition, the effect's behind the named. The deliveries are the caller's while the pending
-- list names the member and the token (Redis' delivery count) of each. Again finds them settled, and does nothing.
-- ARGV behind the named ones: entry and token of each of `count` deliveries, then the effect as mq-effect.lua takes it.
-- Returns {'settled', per message 1 when it was appended}, {'stale'} when one is another's, {'gone'} when all are settled already, or why the
-- effect is not possible, as mq_effect_refusal does.
local stream = KEYS[1]
local attempts = KEYS[2]
local group = ARGV[1]
local member = ARGV[2]
local count = tonumber(ARGV[3])

redis.call('HLEN', attempts)
local entries, gone = {}, 0
for i = 1, count do
  local entry, token = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  if not pending then
    gone = gone + 1
  elseif pending[2] == member and string.format('%.0f', pending[4]) == token then
    entries[#entries + 1] = entry
  end
end
if gone == count then return { 'gone' } end
if #entries < count then return { 'stale' } end

local time = redis.call('TIME')
local plan = mq_effect_plan(time[1] * 1000 + math.floor(time[2] / 1000))
local effect = mq_effect_read(4 + 2 * count, 2)
local refusal = mq_effect_refusal(plan, effect)
if refusal then return refusal end
local appended = mq_effect_appended(mq_effect_apply(plan, effect))
for _, entry in ipairs(entries) do
  redis.call('XACK', stream, group, entry)
  redis.call('HDEL', attempts, entry)
end
return { 'settled', appended }
