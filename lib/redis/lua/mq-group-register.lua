#!lua flags=allow-oom
-- Make a group known in one partition of a topic: trimming waits for it from now on, and it has a place to begin.
--
-- Atomic; all keys are of one partition. Again has no effect, except that what was lost (FLUSHALL, XGROUP DESTROY) is made
-- anew, from the stored checkpoint when there is one. `start` and `read` as mq_place takes them.
-- Returns '' when registered, or the mode under which the group exists already when it is another.
local groups = KEYS[1]
local lease = KEYS[2]
local stream = KEYS[3]
local group = ARGV[1]
local mode = ARGV[2]
local start = ARGV[3]
local read = ARGV[4]

local declared = redis.call('HGET', groups, group)
local checkpoint, stored_read = unpack(redis.call('HMGET', lease, 'checkpoint', 'read'))
local place, place_read = mq_place(stream, start, read)
if declared then
  local declared_mode = string.match(declared, '^%a+')
  if declared_mode ~= mode then return declared_mode end
end

local is_new = not checkpoint
if is_new then checkpoint, stored_read = place, place_read end
if mode == 'concurrent' then
  local generation = declared and string.match(declared, '^%a+ %d+ (%d+)$')
  local name = generation and group .. '#' .. generation or group
  local created = redis.pcall('XGROUP', 'CREATE', stream, name, checkpoint, 'MKSTREAM', 'ENTRIESREAD', stored_read)
  if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then return created end
end
if is_new then redis.call('HSET', lease, 'checkpoint', checkpoint, 'floor', checkpoint, 'read', stored_read) end
if not declared then redis.call('HSET', groups, group, mode .. ' ' .. redis.call('TIME')[1] .. '000') end
return ''
