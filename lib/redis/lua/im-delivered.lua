#!lua
-- Move forward how far a conversation has reached a member's devices.
--
-- One partition's hash tag. In a conversation with more than so many members nothing is kept: nobody looks at it there.
-- Returns {seq, members to be told...} (nobody when it did not move), or NOT_MEMBER or "BEYOND <head>".
local conv = KEYS[1]
local members = KEYS[2]
local delivered = KEYS[3]
local user = ARGV[1]
local seq = tonumber(ARGV[2])
local size_max = tonumber(ARGV[3])

local state = im_load(conv, members)
local value = redis.call('HGET', members, user)
local known = tonumber(redis.call('HGET', delivered, user) or 0)
if not state or not value then return 'NOT_MEMBER' end
if seq > state.head then return 'BEYOND ' .. state.head end
-- What was read has arrived.
known = math.max(known, tonumber(string.match(value, '^%a %d+ %d+ (%d+)')))
if seq <= known then return {known} end
if state.type == 'channel' or state.size > size_max then return {seq} end
redis.call('HSET', delivered, user, string.format('%d', seq))
local reply = {seq}
for _, member in ipairs(redis.call('HKEYS', members)) do
  if member ~= '#' and member ~= user then reply[#reply + 1] = member end
end
return reply
