#!lua flags=allow-oom
-- Hand a member of a concurrent group what must be delivered again in one partition: retries that are due, and deliveries
-- whose holders let their lease run out.
--
-- Atomic; all keys are of one partition. A claim raises Redis' delivery count of the entry, which is the fencing token. A
-- lease that ran out is counted against the entry. Again hands out nothing twice within the lease. Also keeps the group's
-- place, for the day when the group itself is lost.
-- Returns {claims, entries deleted unread, next due ms or ''}; a claim is {entry id, fields, token, attempts record or ''}.
local stream = KEYS[1]
local retries = KEYS[2]
local attempts = KEYS[3]
local lease = KEYS[4]
local group = ARGV[1]
local member = ARGV[2]
local lease_ms = tonumber(ARGV[3])
local limit = tonumber(ARGV[4])

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HLEN', attempts)
local stored = redis.call('HMGET', lease, 'checkpoint', 'read')
local summary = redis.call('XPENDING', stream, group)
local due = redis.call('ZRANGEBYSCORE', retries, '-inf', now_ms, 'LIMIT', 0, limit)

local claims, deleted = {}, 0
local function claim(entry, is_lost)
  local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  redis.call('ZREM', retries, entry)
  if not pending then return end
  local claimed = redis.call('XCLAIM', stream, group, member, 0, entry)[1]
  local record = redis.call('HGET', attempts, entry)
  if not claimed then
    deleted = deleted + 1
    redis.call('HDEL', attempts, entry)
    return
  end
  if is_lost then
    local failed, losses, first, text = string.match(record or '0 0 0 ', '^(%d+) (%d+) (%d+) (.*)$')
    record = failed .. ' ' .. (losses + 1) .. ' ' .. first .. ' ' .. text
    redis.call('HSET', attempts, entry, record)
  end
  claims[#claims + 1] = { entry, claimed[2], pending[4] + 1, record or '' }
end

for _, entry in ipairs(due) do claim(entry, false) end
if summary[1] > 0 then
  for _, consumer in ipairs(summary[4]) do
    local name, room = consumer[1], limit - #claims - deleted
    -- The consumer #retry holds what waits for its due time.
    if room > 0 and name ~= '#retry' then
      for _, lost in ipairs(redis.call('XPENDING', stream, group, 'IDLE', lease_ms, '-', '+', room, name)) do
        claim(lost[1], true)
      end
    end
  end
end

-- Where a new group would have to begin: before the oldest pending entry, or behind what was delivered.
local checkpoint, read = nil, nil
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local of = {}
  for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
  if of['name'] == group then checkpoint, read = of['last-delivered-id'], of['entries-read'] or 0 end
end
local oldest = redis.call('XPENDING', stream, group)
if oldest[1] > 0 then
  local ms, count = string.match(oldest[2], '^(%d+)-(%d+)$')
  if count ~= '0' then
    checkpoint = ms .. '-' .. string.format('%.0f', tonumber(count) - 1)
  else
    checkpoint = string.format('%.0f', tonumber(ms) - 1) .. '-18446744073709551615'
  end
end
if checkpoint ~= stored[1] then redis.call('HSET', lease, 'checkpoint', checkpoint, 'floor', checkpoint, 'read', read) end

local next_due = redis.call('ZRANGE', retries, 0, 0, 'WITHSCORES')
return { claims, deleted, next_due[2] or '' }
