#!lua flags=allow-oom
-- Hand a member of a concurrent group what must be delivered again in one partition: retries that are due, and deliveries
-- whose holders let their lease run out.
--
-- Atomic; all keys are of one partition. A claim raises Redis' delivery count of the entry, which is the fencing token. A
-- lease that ran out is counted against the entry. Again hands out nothing twice within the lease. Also keeps the group's
-- place. `group` is its name in the stream.
-- Returns {claims, entries deleted unread, next due ms or ''}; a claim is {entry id, fields, count, attempts record or ''}.
local stream = KEYS[1]
local retries = KEYS[2]
local attempts = KEYS[3]
local lease = KEYS[4]
local group = ARGV[1]
local member = ARGV[2]
local lease_ms = tonumber(ARGV[3])
local limit = tonumber(ARGV[4])

redis.call('ZCARD', retries)
redis.call('HLEN', attempts)
redis.call('HLEN', lease)
redis.call('XPENDING', stream, group)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local of = { stream = stream, retries = retries, attempts = attempts, lease = lease, group = group, now_ms = now_ms }

local claims, deleted = mq_redeliver(of, member, lease_ms, limit)
mq_keep_place(of)
local next_due = redis.call('ZRANGE', retries, 0, 0, 'WITHSCORES')
return { claims, deleted, next_due[2] or '' }
