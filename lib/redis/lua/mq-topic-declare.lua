#!lua
-- Declare a topic: keep its settings, and since when it exists.
--
-- One key. With `ensure` = '1' a topic that exists keeps the settings it has.
-- Returns {'created' | 'exists' | 'full', the stored value}; 'full' when there are `limit` topics and this is not one of them.
local topics = KEYS[1]
local topic = ARGV[1]
local settings = ARGV[2]
local ensure = ARGV[3]
local limit = tonumber(ARGV[4])

local stored = redis.call('HGET', topics, topic)
if stored then
  if ensure == '1' then return {'exists', stored} end
  local value = string.match(stored, '^%d+') .. ' ' .. settings
  redis.call('HSET', topics, topic, value)
  return {'exists', value}
end
if redis.call('HLEN', topics) >= limit then return {'full', ''} end
local time = redis.call('TIME')
local value = string.format('%.0f %s', time[1] * 1000 + math.floor(time[2] / 1000), settings)
redis.call('HSET', topics, topic, value)
return {'created', value}
