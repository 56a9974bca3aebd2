#!lua flags=allow-oom
-- Forget the names of members of a concurrent group that are gone, in one partition.
--
-- Only names without a pending delivery, for dropping a name drops its deliveries. Again has no further effect.
-- Returns how many were dropped.
local stream = KEYS[1]
local group = ARGV[1]
local idle_ms = tonumber(ARGV[2])
local limit = tonumber(ARGV[3])

local dropped = 0
for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local of = {}
  for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
  if dropped < limit and of['pending'] == 0 and of['idle'] > idle_ms and of['name'] ~= '#retry' and of['name'] ~= '#pull' then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, of['name'])
    dropped = dropped + 1
  end
end
return dropped
