#!lua flags=no-writes
-- Who is told of something passing that a member does: the other members, as long as they are few.
--
-- Read-only, one partition's hash tag.
-- Returns the others' ids, none when there are more than so many, or an error code as a string.
local conv = KEYS[1]
local members = KEYS[2]
local user = ARGV[1]
local rights = ARGV[2]
local size_max = tonumber(ARGV[3])

local state = im_load(conv, members)
local value = redis.call('HGET', members, user)
if not state or not value then return 'NOT_MEMBER' end
if state.dissolved then return 'DISSOLVED' end
if not im_may(rights, state, value) then return 'FORBIDDEN' end
local silenced = im_silenced(value, im_now())
if silenced then return silenced end
local others = {}
if state.type == 'channel' or state.size > size_max then return others end
for _, member in ipairs(redis.call('HKEYS', members)) do
  if member ~= '#' and member ~= user then others[#others + 1] = member end
end
return others
