#!lua flags=allow-oom
-- Take a running errand for one runner, for as long as its lease.
--
-- One key. By Redis TIME. Again, by the same runner, has the same effect.
-- Returns {'granted', now ms, the record's fields and values}, {'held'}, {'ended'} when it does not run (any more), or {'gone'} when it
-- has no record.
local record = KEYS[1]
local runner = ARGV[1]
local lease_ms = tonumber(ARGV[2])

local state, holder, lease = unpack(redis.call('HMGET', record, 'state', 'runner', 'lease'))
if not state then return { 'gone' } end
if state ~= 'running' then return { 'ended' } end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if holder ~= '' and holder ~= runner and tonumber(lease) > now_ms then return { 'held' } end
redis.call('HSET', record, 'runner', runner, 'lease', string.format('%.0f', now_ms + lease_ms))
return { 'granted', string.format('%.0f', now_ms), redis.call('HGETALL', record) }
