#!lua flags=allow-oom
-- Free a partition of an ordered group that is held in the name of outside services, for members that are to have it.
--
-- One key. What services have in hand stays theirs until its leases end. Again has no further effect.
-- Returns 1, or 0 when #pull does not hold it.
local lease = KEYS[1]

if redis.call('HGET', lease, 'owner') ~= '#pull' then return 0 end
redis.call('HSET', lease, 'owner', '', 'session', '', 'until', 0)
return 1
