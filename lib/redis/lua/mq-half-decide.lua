#!lua flags=allow-oom
-- Commit or roll back a half message. A commit appends it to its topic, at most once per dedupe id within the topic's window.
--
-- Atomic; all keys are of one partition. The first decision stays for ever: the same again has no further effect, the other one
-- is told what it became. An expired one may still be decided. `decision` is the state to be: c or r. Needs no memory: what is
-- appended is no longer kept.
-- Returns {state that it has, message id, entry id or -, 1 when the commit was a duplicate, 1 when this call decided}, or {}.
local half = KEYS[1]
local due = KEYS[2]
local prepared = KEYS[3]
local expired = KEYS[4]
local ended = KEYS[5]
local stream = KEYS[6]
local even = KEYS[7]
local odd = KEYS[8]
local id = ARGV[1]
local decision = ARGV[2]
local ended_ms = tonumber(ARGV[3])
local ended_max = tonumber(ARGV[4])
-- One is added per call: two make room for it and catch up.
local EVICTED_MAX = 2

local text = redis.call('HGET', half, id)
redis.call('ZCARD', due)
redis.call('ZCARD', prepared)
redis.call('ZCARD', expired)
local count = redis.call('ZCARD', ended)
redis.call('XLEN', stream)
if not text then return {} end
local head = mq_half_head(text)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local seen = mq_dedupe_open(even, odd, tonumber(head.window_ms), now_ms)
if head.state == 'c' or head.state == 'r' then
  return { head.state, head.message_id, head.entry, head.duplicate, 0 }
end

if decision == 'c' then
  local message = mq_half_message(half, id)
  if not message then return redis.error_reply('ERR half message without its message') end
  local original = mq_dedupe_find(seen, message.dedupe_id)
  if original then
    head.message_id, head.entry, head.duplicate = original[1], original[2], '1'
  else
    head.entry = mq_append(stream, message.id, message.type, message.key, message.sequence, message.data, message.properties,
      message.attributes)
    mq_dedupe_put(seen, message.dedupe_id, message.id, head.entry)
  end
end
head.state = decision
redis.call('HSET', half, id, mq_half_head_text(head))
redis.call('HDEL', half, id .. '/message')
redis.call('ZREM', due, id)
redis.call('ZREM', prepared, id)
redis.call('ZREM', expired, id)
redis.call('ZADD', ended, string.format('%.0f', now_ms + ended_ms), id)
for i = 1, math.min(EVICTED_MAX, count + 1 - ended_max) do
  local oldest = redis.call('ZPOPMIN', ended)
  redis.call('HDEL', half, oldest[1])
end
return { head.state, head.message_id, head.entry, head.duplicate, 1 }
