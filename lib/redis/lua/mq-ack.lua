#!lua flags=allow-oom
-- Ack deliveries of a concurrent group in one partition, all handed out as often: what nearly every delivery ends with.
--
-- Atomic and fenced per delivery; all keys are of one partition. A delivery is the caller's while the pending list names the
-- member and the count (of Redis, how often it was handed out). That is so for all of them when the partition's number of `claims`,
-- which rises whenever a member loses a delivery, is still what the caller knew before it read them. Otherwise one look at the
-- pending list from the first to the last tells it, when the caller holds nothing else between; or each is looked at. Again has
-- no further effect.
-- ARGV behind the named ones: the entries, in the partition's order.
-- Returns {claims} when all are settled now, or {claims, outcomes}: per delivery 1 settled, 0 another holds it, 2 settled already.
local stream = KEYS[1]
local attempts = KEYS[2]
local lease = KEYS[3]
local group = ARGV[1]
local member = ARGV[2]
local handed = tonumber(ARGV[3])
local known_claims = ARGV[4]

local FIRST = 5
local has_attempts = redis.call('HLEN', attempts) > 0
local claims = redis.call('HGET', lease, 'claims') or '0'
local count = #ARGV - FIRST + 1
local is_plain = claims == known_claims
if not is_plain then
  local held = redis.call('XPENDING', stream, group, ARGV[FIRST], ARGV[#ARGV], count, member)
  is_plain = #held == count
  for i = 1, #held do
    if held[i][1] ~= ARGV[FIRST + i - 1] or held[i][4] ~= handed then
      is_plain = false
      break
    end
  end
end
if is_plain then
  redis.call('XACK', stream, group, unpack(ARGV, FIRST))
  if has_attempts then redis.call('HDEL', attempts, unpack(ARGV, FIRST)) end
  return { claims }
end

local settled, outcomes = {}, {}
for i = FIRST, #ARGV do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if not pending then
    outcomes[#outcomes + 1] = 2
  elseif pending[2] == member and pending[4] == handed then
    outcomes[#outcomes + 1] = 1
    settled[#settled + 1] = ARGV[i]
  else
    outcomes[#outcomes + 1] = 0
  end
end
if #settled > 0 then
  redis.call('XACK', stream, group, unpack(settled))
  if has_attempts then redis.call('HDEL', attempts, unpack(settled)) end
end
return { claims, outcomes }
