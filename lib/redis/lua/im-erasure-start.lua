#!lua
-- Begin an erasure, unless one of this user is under way. From now on he counts as erased.
--
-- Both keys share a hash tag. As errands are begun (lib/mq/errand.ts). Again joins the one that was begun.
-- Returns 1 when it was begun, 0 when it runs already, -1 when too many run.
local open = KEYS[1]
local record = KEYS[2]
local id = ARGV[1]
local user = ARGV[2]
local pseudonym = ARGV[3]
local running_max = tonumber(ARGV[4])

local running = redis.call('SCARD', open)
if redis.call('HGET', record, 'state') == 'running' then return 0 end
if running >= running_max then return -1 end
local time = redis.call('TIME')
redis.call('DEL', record)
redis.call('HSET', record, 'state', 'running', 'user', user, 'pseudonym', pseudonym, 'runner', '', 'lease', '0',
  'created', time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
redis.call('SADD', open, id)
return 1
