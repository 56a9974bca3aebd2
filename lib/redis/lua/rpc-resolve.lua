#!lua flags=no-writes
-- Read who is alive under a service's name.
--
-- One key, read-only. A lease is judged by Redis TIME, so the clocks of the machines do not matter.
-- Returns {instance, incarnation, record, …} of those whose lease runs.
local registry = KEYS[1]

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local alive = {}
local values = redis.call('HGETALL', registry)
for i = 1, #values, 2 do
  local lease_end, incarnation, record = string.match(values[i + 1], '^(%d+) (%S+) (.*)$')
  if lease_end and tonumber(lease_end) > now_ms then
    alive[#alive + 1] = values[i]
    alive[#alive + 1] = incarnation
    alive[#alive + 1] = record
  end
end
return alive
