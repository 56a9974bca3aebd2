#!lua
-- The least that a durable chat commit must do, as one script. Not Skein's commit: a fixed measure of the machine, with which
-- figures of different days and machines compare.
--
-- Membership, one dedupe key with a time to live per message, the conversation's counter, its timeline, the topic. The keys
-- are built here because redis-benchmark draws a new random number for every argument; so it runs on a single Redis only.
-- Returns the seq, 0 for a duplicate, or an error for a stranger.
local conversation = ARGV[1]
local user = ARGV[2]
local id = ARGV[3]
local body = ARGV[4]
if redis.call('SISMEMBER', 'm:{' .. conversation .. '}', user) == 0 then return redis.error_reply('NOTMEMBER') end
if not redis.call('SET', 'd:{' .. conversation .. '}:' .. id, '1', 'NX', 'PX', 600000) then return 0 end
local seq = redis.call('INCR', 's:{' .. conversation .. '}')
redis.call('XADD', 't:{' .. conversation .. '}', 'MAXLEN', '~', 1000, seq .. '-0', 'u', user, 'i', id, 'b', body)
redis.call('XADD', 'topic', 'MAXLEN', '~', 1000000, '*', 'c', conversation, 's', seq, 'u', user, 'i', id, 'b', body)
return seq
