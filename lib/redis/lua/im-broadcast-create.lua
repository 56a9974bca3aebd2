#!lua
-- Record a broadcast that is to run, once per id.
--
-- Atomic; all keys share a hash tag. By Redis TIME. Of the list, what is older than a broadcast lives is dropped, and the oldest beyond
-- `list_max`.
-- ARGV behind the named ones: fields and values of the record.
-- Returns `created`, `same` when there is one with the same digest of content, `other` when there is another one, `full` when `open_max`
-- are open already.
local open = KEYS[1]
local list = KEYS[2]
local record = KEYS[3]
local audience = KEYS[4]
local id = ARGV[1]
local digest = ARGV[2]
local open_max = tonumber(ARGV[3])
local list_max = tonumber(ARGV[4])
local life_ms = tonumber(ARGV[5])

local count = redis.call('SCARD', open)
redis.call('ZCARD', list)
redis.call('ZCARD', audience)
local existing = redis.call('HGET', record, 'digest')
if existing then return existing == digest and 'same' or 'other' end
if count >= open_max then return 'full' end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%.0f', now_ms)
redis.call('HSET', record, 'state', 'running', 'digest', digest, 'created', now, 'spent', now, 'partition', 0, 'position', '',
  'runner', '', 'lease', 0, unpack(ARGV, 6))
redis.call('PEXPIRE', record, life_ms)
redis.call('PEXPIRE', audience, life_ms)
redis.call('SADD', open, id)
redis.call('ZADD', list, now, id)
redis.call('ZREMRANGEBYSCORE', list, '-inf', string.format('%.0f', now_ms - life_ms))
redis.call('ZREMRANGEBYRANK', list, 0, -list_max - 1)
return 'created'
