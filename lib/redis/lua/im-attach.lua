#!lua
-- Write the route of a connection, its device, and with a user's first connection that the user is online.
--
-- All keys lie under the user's partition; state and event are one commit. Written again it keeps when the connection began.
-- Returns 1 when the user has come online by it, else 0.
local routes = KEYS[1]
local devices = KEYS[2]
local presence = KEYS[3]
local leaving = KEYS[4]
local users_topic = KEYS[5]
local users = KEYS[6]
local user = ARGV[1]
local connection = ARGV[2]
local gateway = ARGV[3]
local number = ARGV[4]
local device = ARGV[5]
local ttl_ms = ARGV[6]
local devices_max = tonumber(ARGV[7])
local event_id = ARGV[8]
-- device: "-" when it has no name.

local known = redis.call('HGET', routes, connection)
redis.call('HLEN', devices)
redis.call('ZSCORE', leaving, user)
redis.call('XLEN', users_topic)
redis.call('ZCARD', users)
local is_online = redis.call('HGET', presence, 'online')
local now = string.format('%.0f', im_now())
local since = known and string.match(known, '%d+$') or now
redis.call('HSET', routes, connection, gateway .. ' ' .. number .. ' ' .. device .. ' ' .. since)
redis.call('PEXPIRE', routes, ttl_ms)
redis.call('ZREM', leaving, user)
if device ~= '-' then
  redis.call('HSET', devices, device, now)
  if redis.call('HLEN', devices) > devices_max then
    local all = redis.call('HGETALL', devices)
    local oldest = 1
    for i = 3, #all, 2 do
      if tonumber(all[i + 1]) < tonumber(all[oldest + 1]) then oldest = i end
    end
    redis.call('HDEL', devices, all[oldest])
  end
end
if is_online then return 0 end
redis.call('HSET', presence, 'online', now)
redis.call('ZADD', users, 'GT', now, user)
mq_append(users_topic, event_id, 'im.user.online', user, '', '{"user":"' .. user .. '","at":' .. now .. '}', '')
return 1
