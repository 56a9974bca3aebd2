#!lua
-- Record a redrive that is to run in the background.
--
-- Atomic; both keys share a hash tag. Again has no further effect. It is for the letters that were buried until now, by Redis
-- TIME: one that fails again while it runs is not for it.
-- Returns 1, or 0 when `running_max` redrives run already.
local running = KEYS[1]
local record = KEYS[2]
local id = ARGV[1]
local topic = ARGV[2]
local group = ARGV[3]
local selection = ARGV[4]
local per_second = ARGV[5]
local running_max = tonumber(ARGV[6])

local count = redis.call('SCARD', running)
if redis.call('HLEN', record) > 0 then return 1 end
if count >= running_max then return 0 end
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', record, 'state', 'running', 'topic', topic, 'group', group, 'selection', selection,
  'per_second', per_second, 'created', now_ms, 'spent', now_ms, 'partition', 0, 'position', '', 'in_hand', '[]',
  'counts', '{}', 'runner', '', 'lease', 0)
redis.call('SADD', running, id)
return 1
