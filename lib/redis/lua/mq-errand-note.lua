#!lua flags=allow-oom
-- Note how far an errand has come, or bring it into another state.
--
-- Atomic; both keys share a hash tag. Only its runner may, or an operator (`runner` ''). A runner whose errand was paused or ended
-- under its hands still notes what it did. One that has no record is not open. Again has no further effect. `lease_ms` 0 lets others take
-- it at once.
-- ARGV behind the named ones: fields and values of the record.
-- Returns `ok`, `lost` to another runner, `not_found`, or the state it has, which is not one of `from`.
local open = KEYS[1]
local record = KEYS[2]
local id = ARGV[1]
local runner = ARGV[2]
local from = ARGV[3]
local state = ARGV[4]
local lease_ms = tonumber(ARGV[5])
local keep_ms = ARGV[6]
-- from: the states that it may be in, with blanks between.

redis.call('SCARD', open)
local old_state, holder = unpack(redis.call('HMGET', record, 'state', 'runner'))
if not old_state then
  redis.call('SREM', open, id)
  return 'not_found'
end
if runner ~= '' and holder ~= runner then return old_state == 'running' and 'lost' or old_state end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 7, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
if not string.find(' ' .. from .. ' ', ' ' .. old_state .. ' ', 1, true) then return old_state end
redis.call('HSET', record, 'state', state)
if state == 'running' or state == 'paused' then
  if runner ~= '' then redis.call('HSET', record, 'lease', string.format('%.0f', now_ms + lease_ms)) end
else
  redis.call('HSET', record, 'ended', string.format('%.0f', now_ms))
  redis.call('SREM', open, id)
  redis.call('PEXPIRE', record, keep_ms)
end
return 'ok'
