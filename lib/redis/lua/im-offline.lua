#!lua
-- Take a user who has been without a connection long enough for offline.
--
-- All keys lie under the user's partition; state and event are one commit. Redis TIME decides.
-- Returns when he was seen last, or false when he is not due, has come back, or is offline already.
local routes = KEYS[1]
local presence = KEYS[2]
local leaving = KEYS[3]
local users_topic = KEYS[4]
local users = KEYS[5]
local user = ARGV[1]
local event_id = ARGV[2]

local due = redis.call('ZSCORE', leaving, user)
local connections = redis.call('HLEN', routes)
local state = redis.call('HMGET', presence, 'online', 'seen')
redis.call('XLEN', users_topic)
redis.call('ZCARD', users)
local now_ms = im_now()
if not due or tonumber(due) > now_ms then return false end
redis.call('ZREM', leaving, user)
if connections > 0 or not state[1] then return false end
local seen = state[2] or string.format('%.0f', now_ms)
redis.call('HDEL', presence, 'online')
redis.call('ZADD', users, 'GT', seen, user)
mq_append(users_topic, event_id, 'im.user.offline', user, '', '{"user":"' .. user .. '","lastSeen":' .. seen .. '}', '')
return seen
