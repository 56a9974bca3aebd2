#!lua flags=allow-oom
-- Note how far a redrive has come, or end it.
--
-- Atomic; both keys share a hash tag. Only its runner may, or an operator (`runner` ''). A runner whose redrive was ended under its
-- hands still notes what it did. Again has no further effect. `lease_ms` 0 lets others take it at once.
-- ARGV behind the named ones: fields and values of the record.
-- Returns `ok`, `lost` to another runner, `not_found`, or the state in which it ended before.
local running = KEYS[1]
local record = KEYS[2]
local id = ARGV[1]
local runner = ARGV[2]
local state = ARGV[3]
local lease_ms = tonumber(ARGV[4])
local keep_ms = ARGV[5]

redis.call('SCARD', running)
local old_state, holder = unpack(redis.call('HMGET', record, 'state', 'runner'))
if not old_state then return 'not_found' end
if runner ~= '' and holder ~= runner then return old_state == 'running' and 'lost' or old_state end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 6, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
if old_state ~= 'running' then return old_state end
if state == 'running' then
  redis.call('HSET', record, 'lease', string.format('%.0f', now_ms + lease_ms))
else
  redis.call('HSET', record, 'state', state, 'ended', string.format('%.0f', now_ms))
  redis.call('SREM', running, id)
  redis.call('PEXPIRE', record, keep_ms)
end
return 'ok'
