#!lua flags=allow-oom
-- Hand out the checks of half messages that are due for a producer group in one partition, each to this caller alone.
--
-- Atomic; all keys are of one partition. The script that finds a half prepared counts the check and sets the time of the next,
-- so none is handed out after the end, and none is used up while nobody asks. Again hands out nothing before that time.
-- ARGV behind the named ones: the wait behind the first, the second, … check; so many checks there are. Behind the last, the
-- half expires.
-- Returns the checks: {id, head, message as mq_half_reply} each.
local half = KEYS[1]
local due = KEYS[2]
local prepared = KEYS[3]
local limit = tonumber(ARGV[1])
local bytes_max = tonumber(ARGV[2])
local checks_max = #ARGV - 2

redis.call('HLEN', half)
redis.call('ZCARD', prepared)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local found, bytes = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now_ms, 'LIMIT', 0, limit)) do
  if bytes >= bytes_max then break end
  local text = redis.call('HGET', half, id)
  local head, message = text and mq_half_head(text), mq_half_message(half, id)
  local end_ms = tonumber(redis.call('ZSCORE', prepared, id) or 0)
  local is_due = head and head.state == 'p' and message and end_ms > now_ms and head.checks < checks_max
  if is_due then bytes = bytes + #message.data + #message.properties end
  found[#found + 1] = { id = id, is_due = is_due, head = head, message = message, end_ms = end_ms }
end

local checks = {}
for _, each in ipairs(found) do
  local id, head = each.id, each.head
  if not each.is_due then
    redis.call('ZREM', due, id)
  else
    head.checks = head.checks + 1
    local text = mq_half_head_text(head)
    local next_ms = now_ms + tonumber(ARGV[2 + head.checks])
    redis.call('HSET', half, id, text)
    if head.checks < checks_max then
      redis.call('ZADD', due, string.format('%.0f', next_ms), id)
    else
      redis.call('ZREM', due, id)
      redis.call('ZADD', prepared, string.format('%.0f', math.min(each.end_ms, next_ms)), id)
    end
    checks[#checks + 1] = { id, text, mq_half_reply(each.message) }
  end
end
return checks
