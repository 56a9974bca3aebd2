#!lua flags=allow-oom
-- Set a concurrent group to another place in one partition: a new Redis consumer group takes over from the old one.
--
-- Atomic; all keys are of one partition. With the old consumer group its pending list is gone, so that whoever holds deliveries of
-- it is refused; what waited for a retry is forgotten. `start` and `read` as mq_place takes them. `generation` numbers the
-- seeks and names the new consumer group: again, with the same one, has no further effect.
-- Returns '' when it is done, or why not: the mode of the group when it is another, 'unregistered'.
local stream = KEYS[1]
local groups = KEYS[2]
local lease = KEYS[3]
local retries = KEYS[4]
local attempts = KEYS[5]
local group = ARGV[1]
local start = ARGV[2]
local read = ARGV[3]
local generation = ARGV[4]

local declared = redis.call('HGET', groups, group)
redis.call('HLEN', lease)
redis.call('ZCARD', retries)
redis.call('HLEN', attempts)
local checkpoint, checkpoint_read = mq_place(stream, start, read)
if not declared then return 'unregistered' end
local mode, created, old = string.match(declared, '^(%a+) (%d+) ?(%d*)$')
if mode ~= 'concurrent' then return mode end
if tonumber(old ~= '' and old or '0') >= tonumber(generation) then return '' end

redis.call('XGROUP', 'CREATE', stream, group .. '#' .. generation, checkpoint, 'MKSTREAM', 'ENTRIESREAD', checkpoint_read)
redis.call('XGROUP', 'DESTROY', stream, old ~= '' and group .. '#' .. old or group)
redis.call('UNLINK', retries, attempts)
redis.call('HSET', lease, 'checkpoint', checkpoint, 'floor', checkpoint, 'read', checkpoint_read)
redis.call('HSET', groups, group, mode .. ' ' .. created .. ' ' .. generation)
return ''
