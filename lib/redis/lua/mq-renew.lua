#!lua flags=allow-oom
-- Renew the leases of deliveries that a member of a concurrent group has in hand, in one partition.
--
-- Fenced per delivery: the pending list must name the member and the count. Of what outside services hold (#pull) `retries` keeps
-- the end of the lease. Again has no further effect.
-- ARGV behind the named ones: entry and count of each.
-- Returns per delivery the end of its lease, ms, or 0 when it is another's or settled.
local stream = KEYS[1]
local retries = KEYS[2]
local group = ARGV[1]
local member = ARGV[2]
local lease_ms = tonumber(ARGV[3])

redis.call('ZCARD', retries)
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + lease_ms
local renewed = {}
for i = 4, #ARGV, 2 do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == member and string.format('%.0f', pending[4]) == ARGV[i + 1] then
    redis.call('XCLAIM', stream, group, member, 0, ARGV[i], 'JUSTID')
    if member == '#pull' then redis.call('ZADD', retries, string.format('%.0f', until_ms), ARGV[i]) end
    renewed[#renewed + 1] = until_ms
  else
    renewed[#renewed + 1] = 0
  end
end
return renewed
