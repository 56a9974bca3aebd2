#!lua flags=allow-oom
-- Renew the leases of deliveries that a member of a concurrent group has in hand, in one partition.
--
-- Fenced per delivery: the pending list must name the member and the token. Again has no further effect.
-- ARGV behind the named ones: entry and token of each.
-- Returns per delivery 1, or 0 when it is another's or settled.
local stream = KEYS[1]
local group = ARGV[1]
local member = ARGV[2]

local renewed = {}
for i = 3, #ARGV, 2 do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == member and string.format('%.0f', pending[4]) == ARGV[i + 1] then
    redis.call('XCLAIM', stream, group, member, 0, ARGV[i], 'JUSTID')
    renewed[#renewed + 1] = 1
  else
    renewed[#renewed + 1] = 0
  end
end
return renewed
