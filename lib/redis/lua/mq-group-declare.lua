#!lua
-- Declare a group of a topic: keep its settings, since when it exists, and whether it has a webhook.
--
-- Atomic; the keys share a hash tag. A group's mode never changes. `revision` is a digest of the settings when they have a webhook,
-- else ''. Whoever sends webhooks looks at the revisions alone.
-- Returns {'created' | 'exists', the stored value}; {'mode', the mode it has}; or {'full' | 'webhooks', ''} when there are
-- `groups_max` groups of the topic or `webhooks_max` webhooks of all topics, and this is none of them.
local groups = KEYS[1]
local webhooks = KEYS[2]
local topic = ARGV[1]
local group = ARGV[2]
local mode = ARGV[3]
local settings = ARGV[4]
local revision = ARGV[5]
local groups_max = tonumber(ARGV[6])
local webhooks_max = tonumber(ARGV[7])

local field = topic .. ' ' .. group
local stored = redis.call('HGET', groups, group)
local has_webhook = redis.call('HEXISTS', webhooks, field) == 1
local created
if stored then
  local stored_mode
  created, stored_mode = string.match(stored, '^(%d+) (%a+) ')
  if stored_mode ~= mode then return {'mode', stored_mode} end
elseif redis.call('HLEN', groups) >= groups_max then
  return {'full', ''}
else
  local time = redis.call('TIME')
  created = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end
if revision ~= '' and not has_webhook and redis.call('HLEN', webhooks) >= webhooks_max then return {'webhooks', ''} end

local value = created .. ' ' .. mode .. ' ' .. settings
redis.call('HSET', groups, group, value)
if revision ~= '' then
  redis.call('HSET', webhooks, field, revision)
elseif has_webhook then
  redis.call('HDEL', webhooks, field)
end
return {stored and 'exists' or 'created', value}
