#!lua
-- Register an instance of a service, or renew its lease: the heartbeat.
--
-- One key. A value is "<lease end ms> <incarnation> <record>". The name stays with the newest incarnation whose lease runs, so
-- a process that was paused while its successor started does not take the name back. The dead are removed here.
-- Returns 1, or 0 when a newer incarnation holds the name (nothing changes then).
local registry = KEYS[1]
local instance = ARGV[1]
local incarnation = ARGV[2]
local lease_ms = tonumber(ARGV[3])
local record = ARGV[4]

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local dead = {}
-- At most 100 removals a heartbeat: the rest waits for the next one.
local values = redis.call('HGETALL', registry)
for i = 1, #values, 2 do
  local lease_end, holder = string.match(values[i + 1], '^(%d+) (%S+) ')
  local alive = lease_end and tonumber(lease_end) > now_ms
  if values[i] == instance then
    if alive and holder > incarnation then return 0 end
  elseif not alive and #dead < 100 then
    dead[#dead + 1] = values[i]
  end
end
redis.call('HSET', registry, instance, string.format('%d %s %s', now_ms + lease_ms, incarnation, record))
redis.call('PEXPIRE', registry, 10 * lease_ms)
if #dead > 0 then redis.call('HDEL', registry, unpack(dead)) end
return 1
