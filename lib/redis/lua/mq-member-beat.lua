#!lua flags=allow-oom
-- Say that a member of a group is alive, and hear who else is, and what an operator ordered of the group.
--
-- Atomic; both keys are of one slot. Drops members whose time ran out, by Redis TIME. Again has no further effect.
-- Returns {names of the live members, this one among them; ms since the group is paused or ''; number of seeks}.
local members = KEYS[1]
local control = KEYS[2]
local member = ARGV[1]
local live_ms = tonumber(ARGV[2])

local known = redis.call('HGETALL', members)
local paused, seeks = unpack(redis.call('HMGET', control, 'paused', 'seeks'))
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', members, member, string.format('%.0f', now_ms + live_ms))
local live = { member }
for i = 1, #known, 2 do
  if known[i] ~= member then
    if tonumber(known[i + 1]) > now_ms then
      live[#live + 1] = known[i]
    else
      redis.call('HDEL', members, known[i])
    end
  end
end
redis.call('PEXPIRE', members, 2 * live_ms)
return { live, paused or '', seeks or '0' }
