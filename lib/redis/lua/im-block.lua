#!lua
-- Silence one side of a direct conversation, or let it speak again.
--
-- One partition's hash tag. It holds for the conversation that there is and for one that will be: its creation looks.
-- Returns 1 when that changed something, else 0.
local members = KEYS[1]
local silenced = KEYS[2]
local user = ARGV[1]
local is_blocked = ARGV[2]

local value = redis.call('HGET', members, user)
local changed = is_blocked == '1' and redis.call('SADD', silenced, user) or redis.call('SREM', silenced, user)
if value then
  local role, joined, muted, read = string.match(value, '^(%a) (%d+) (%d+) (.*)$')
  local wanted = is_blocked == '1' and IM_BLOCKED or '0'
  if muted ~= wanted then
    redis.call('HSET', members, user, role .. ' ' .. joined .. ' ' .. wanted .. ' ' .. read)
    changed = 1
  end
end
return changed
