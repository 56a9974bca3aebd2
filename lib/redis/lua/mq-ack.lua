#!lua flags=allow-oom
-- Ack deliveries of a concurrent group in one partition, all handed out under one token: what nearly every delivery ends with.
--
-- Atomic and fenced per delivery; all keys are of one partition. A delivery is the caller's while the pending list names the
-- member and the token (Redis' delivery count). One look at the pending list from the first to the last of them tells it for
-- all; those not in its answer, which is bounded, are looked at one by one. Again has no further effect.
-- ARGV behind the named ones: the entries, `first` and `last` in the partition's order among them.
-- Returns '' when all are settled now, or per delivery 1 settled, 0 another holds it, 2 it is settled already.
local stream = KEYS[1]
local attempts = KEYS[2]
local group = ARGV[1]
local member = ARGV[2]
local token = tonumber(ARGV[3])
local first = ARGV[4]
local last = ARGV[5]

local has_attempts = redis.call('HLEN', attempts) > 0
local count = #ARGV - 5
local held = {}
for _, pending in ipairs(redis.call('XPENDING', stream, group, first, last, 2 * count, member)) do
  held[pending[1]] = pending[4]
end

local settled, outcomes = {}, {}
for i = 6, #ARGV do
  local entry = ARGV[i]
  local found = held[entry]
  local outcome = 1
  if found == nil then
    local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
    if not pending then
      outcome = 2
    elseif pending[2] == member then
      found = pending[4]
    end
  end
  if found == token then
    settled[#settled + 1] = entry
  elseif outcome == 1 then
    outcome = 0
  end
  outcomes[#outcomes + 1] = outcome
end
if #settled > 0 then
  redis.call('XACK', stream, group, unpack(settled))
  if has_attempts then redis.call('HDEL', attempts, unpack(settled)) end
end
if #settled == count then return '' end
return outcomes
