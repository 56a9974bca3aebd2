#!lua flags=allow-oom
-- Ack deliveries of a concurrent group in one partition, all handed out under one token: what nearly every delivery ends with.
--
-- Atomic and fenced per delivery; all keys are of one partition. A delivery is the caller's while the pending list names the
-- member and the token (Redis' delivery count). One look at the pending list from the first to the last of them tells it for
-- all, when the caller holds nothing else between; otherwise each is looked at. Again has no further effect.
-- ARGV behind the named ones: the entries, in the partition's order.
-- Returns '' when all are settled now, or per delivery 1 settled, 0 another holds it, 2 it is settled already.
local stream = KEYS[1]
local attempts = KEYS[2]
local group = ARGV[1]
local member = ARGV[2]
local token = tonumber(ARGV[3])

local has_attempts = redis.call('HLEN', attempts) > 0
local count = #ARGV - 3
local held = redis.call('XPENDING', stream, group, ARGV[4], ARGV[#ARGV], count, member)
local is_plain = #held == count
for i = 1, #held do
  if held[i][1] ~= ARGV[i + 3] or held[i][4] ~= token then
    is_plain = false
    break
  end
end
if is_plain then
  redis.call('XACK', stream, group, unpack(ARGV, 4))
  if has_attempts then redis.call('HDEL', attempts, unpack(ARGV, 4)) end
  return ''
end

local settled, outcomes = {}, {}
for i = 4, #ARGV do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if not pending then
    outcomes[i - 3] = 2
  elseif pending[2] == member and pending[4] == token then
    outcomes[i - 3] = 1
    settled[#settled + 1] = ARGV[i]
  else
    outcomes[i - 3] = 0
  end
end
if #settled > 0 then
  redis.call('XACK', stream, group, unpack(settled))
  if has_attempts then redis.call('HDEL', attempts, unpack(settled)) end
end
if #settled == count then return '' end
return outcomes
