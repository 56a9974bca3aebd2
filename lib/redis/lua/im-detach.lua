#!lua
-- Remove the route of a connection, or all routes to a gateway that is gone. A user without any is about to leave.
--
-- All keys lie under the user's partition. He counts as offline after a while only (im-offline.lua), for most come back at once.
-- Returns how many routes were removed.
local routes = KEYS[1]
local devices = KEYS[2]
local presence = KEYS[3]
local leaving = KEYS[4]
local user = ARGV[1]
local connection = ARGV[2]
local gateway = ARGV[3]
local grace_ms = tonumber(ARGV[4])
-- connection: "" for all those of the gateway.

local removed = {}
if connection ~= '' then
  local route = redis.call('HGET', routes, connection)
  if route then removed[1] = { connection, route } end
else
  local all = redis.call('HGETALL', routes)
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^%S+') == gateway then removed[#removed + 1] = { all[i], all[i + 1] } end
  end
end
redis.call('HLEN', devices)
local is_online = redis.call('HGET', presence, 'online')
local is_leaving = redis.call('ZSCORE', leaving, user)
local now_ms = im_now()
local now = string.format('%.0f', now_ms)
for _, route in ipairs(removed) do
  redis.call('HDEL', routes, route[1])
  local device = string.match(route[2], '^%S+ %S+ (%S+)')
  if device ~= '-' and redis.call('HEXISTS', devices, device) == 1 then redis.call('HSET', devices, device, now) end
end
if is_online and not is_leaving and redis.call('HLEN', routes) == 0 then
  redis.call('HSET', presence, 'seen', now)
  redis.call('ZADD', leaving, string.format('%.0f', now_ms + grace_ms), user)
end
return #removed
