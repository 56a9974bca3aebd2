#!lua flags=allow-oom
-- Hand deliveries of a concurrent group in one partition to an outside service: what must be delivered again first, then new
-- entries, until there are `limit` or some `bytes_max` of them.
--
-- Atomic; all keys are of one partition. The consumer #pull holds them; `retries` says until when. A delivery's count is its
-- fencing token, within the generation. Again hands out nothing twice within the lease. Also keeps the group's place.
-- Returns {generation, claims, entries deleted unread, lease end ms, next due ms or ''}, or {} when the group is not registered; a
-- claim is {entry id, fields, count, attempts record or ''}.
local stream = KEYS[1]
local groups = KEYS[2]
local retries = KEYS[3]
local attempts = KEYS[4]
local lease = KEYS[5]
local group = ARGV[1]
local lease_ms = tonumber(ARGV[2])
local limit = tonumber(ARGV[3])
local bytes_max = tonumber(ARGV[4])

-- Entries per read, so that large ones do not pass the limit by far.
local STEP = 16

local declared = redis.call('HGET', groups, group)
redis.call('ZCARD', retries)
redis.call('HLEN', attempts)
redis.call('HLEN', lease)
redis.call('XLEN', stream)
if not declared then return {} end
local generation = string.match(declared, '^%a+ %d+ (%d+)$') or '0'
local name = generation == '0' and group or group .. '#' .. generation
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local of = { stream = stream, retries = retries, attempts = attempts, lease = lease, group = name, now_ms = now_ms }

local claims, deleted = mq_redeliver(of, '#pull', lease_ms, limit)
local bytes = 0
for _, claim in ipairs(claims) do bytes = bytes + #(claim[2][2] or '') end
while #claims < limit and bytes < bytes_max do
  local step = math.min(STEP, limit - #claims)
  local reply = redis.call('XREADGROUP', 'GROUP', name, '#pull', 'COUNT', step, 'STREAMS', stream, '>')
  local entries = reply and reply[1] and reply[1][2] or {}
  for _, entry in ipairs(entries) do
    bytes = bytes + #(entry[2][2] or '')
    claims[#claims + 1] = { entry[1], entry[2], 1, '' }
  end
  if #entries < step then break end
end
local until_ms = string.format('%.0f', now_ms + lease_ms)
for _, claim in ipairs(claims) do redis.call('ZADD', retries, until_ms, claim[1]) end
if #claims > 0 then mq_keep_place(of) end
local next_due = redis.call('ZRANGE', retries, 0, 0, 'WITHSCORES')
return { generation, claims, deleted, until_ms, next_due[2] or '' }
