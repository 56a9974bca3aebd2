#!lua
-- Win a user back who was not seen for long, at most once per period: note it, tell of it, and ask for a push.
--
-- All keys lie under the user's partition; note, event and notice are one commit. Redis TIME decides. Again changes nothing, for
-- it is noted.
-- Returns 1, or 0 when he is online, was seen or was won back too recently, or is not known (any more).
local presence = KEYS[1]
local users = KEYS[2]
local winback = KEYS[3]
local users_topic = KEYS[4]
local push_topic = KEYS[5]
local user = ARGV[1]
local idle_ms = tonumber(ARGV[2])
local period_ms = tonumber(ARGV[3])
local event_id = ARGV[4]
local notice_id = ARGV[5]
local notice_end = ARGV[6]
-- notice_end: the notice's JSON behind its users; "" for no push.

local is_online = redis.call('HEXISTS', presence, 'online') == 1
local seen = redis.call('ZSCORE', users, user)
local noted = redis.call('ZSCORE', winback, user)
redis.call('XLEN', users_topic)
redis.call('XLEN', push_topic)
local now_ms = im_now()
if is_online or not seen or tonumber(seen) > now_ms - idle_ms then return 0 end
if noted and tonumber(noted) > now_ms - period_ms then return 0 end
redis.call('ZADD', winback, string.format('%.0f', now_ms), user)
mq_append(users_topic, event_id, 'im.user.winback', user, '', '{"user":"' .. user .. '","lastSeen":' .. seen .. '}', '')
if notice_end ~= '' then
  mq_append(push_topic, notice_id, 'im.push.notice', user, '', '{"id":"' .. notice_id .. '","users":["' .. user .. '"],' .. notice_end, '')
end
return 1
