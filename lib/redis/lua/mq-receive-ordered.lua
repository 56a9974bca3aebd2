#!lua flags=allow-oom
-- Hand deliveries of an ordered group in one partition to an outside service: the first messages of keys that are due, then the
-- messages behind the checkpoint, until there are `limit` or some `bytes_max` of them.
--
-- Atomic and fenced: #pull must hold the partition's lease, which is extended by `hold_ms`; all keys are of one partition. Every
-- message goes aside before it is handed out, so that the checkpoint moves on and what is unfinished is found in one place,
-- by any process and by members that take the partition over. Of a key that stands aside only the first message is ever
-- out, under a token, until its lease ends. What a member left open goes aside first. Beyond `keys_max`, `messages_max` or
-- `memory_max` aside nothing more is read. Again hands out nothing twice within the lease.
-- Returns {1, claims, token, lease end ms, whether there may be more, next due ms or '', whether too much stands aside, entries
-- trimmed unread}, or {0} when #pull does not hold the partition; a claim is {key, entry, header, data, attempts record}.
local stream = KEYS[1]
local lease = KEYS[2]
local attempts = KEYS[3]
local aside = KEYS[4]
local aside_due = KEYS[5]
local side = KEYS[6]
local side_order = KEYS[7]
local lease_ms = tonumber(ARGV[1])
local hold_ms = tonumber(ARGV[2])
local limit = tonumber(ARGV[3])
local bytes_max = tonumber(ARGV[4])
local keys_max = tonumber(ARGV[5])
local messages_max = tonumber(ARGV[6])
local memory_max = tonumber(ARGV[7])

-- Entries per read, so that large ones do not pass the limit by far, and per call, for those of keys aside are not handed out.
local STEP = 16
local SCAN_MAX = 200

local owner, held_until, checkpoint, read, open, suspect, blame =
  unpack(redis.call('HMGET', lease, 'owner', 'until', 'checkpoint', 'read', 'open', 'suspect', 'blame'))
redis.call('XLEN', stream)
redis.call('HLEN', attempts)
local queue = { aside = aside, due = aside_due, side = side, order = side_order }
mq_side_check(queue)
if owner ~= '#pull' then return { 0 } end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = now_ms + lease_ms
local token = string.format('%.0f', time[1] * 1000000 + time[2])
local claims, bytes = {}, 0

-- Puts an entry of the stream aside. Returns its key. What is no message stands for itself, to be buried with all it holds.
local function put(entry)
  local header, data = entry[2][1], entry[2][2]
  local plain = string.sub(header, 1, 1) == '@' and string.match(header, '^@[^ ]* (.*)$') or header
  local key = string.match(plain, '^[^ ]* [^ ]* ([^ ]*) [^ ]* ')
  if not key or #entry[2] ~= 2 then key, header, data = '', '', cjson.encode(entry[2]) end
  if key == '' then key = entry[1] end
  local is_first = redis.call('HEXISTS', aside, key) == 0
  mq_side_put(queue, key, entry[1], header, data, now_ms)
  return key, is_first
end

local function hand(key, record)
  local message = mq_side_first(queue, key, nil, 1, 0)[1]
  record.state, record.token, record.until_ms = 'o', token, until_ms
  mq_side_set(queue, key, record, until_ms)
  bytes = bytes + #message[3]
  claims[#claims + 1] = { key, message[1], message[2], message[3],
    string.format('%.0f %.0f %s ', record.failed, record.losses, record.first) .. record.history }
end

-- What a member left open, with what it cost so far.
local still_open, adopted = {}, 0
for id in string.gmatch(open or '', '%S+') do
  adopted = adopted + 1
  local entry = adopted <= SCAN_MAX and redis.call('XRANGE', stream, id, id)[1]
  if entry then
    local key, is_first = put(entry)
    local note = redis.call('HGET', attempts, id)
    if is_first and (note or id == suspect) then
      local record = mq_side_get(queue, key)
      local failed, losses, first, history = string.match(note or '0 0 0 []', '^(%d+) (%d+) (%d+) (.*)$')
      record.failed, record.losses, record.first = tonumber(failed), tonumber(losses), first
      record.history = history == '' and '[]' or history
      if id == suspect then record.losses = math.max(record.losses, tonumber(blame or 0)) end
      mq_side_set(queue, key, record, now_ms)
    end
  end
  if adopted > SCAN_MAX then still_open[#still_open + 1] = id else redis.call('HDEL', attempts, id) end
end

for _, key in ipairs(redis.call('ZRANGEBYSCORE', aside_due, '-inf', now_ms, 'LIMIT', 0, limit)) do
  if #claims < limit and bytes < bytes_max then
    local record = mq_side_get(queue, key)
    if record.state ~= 'r' then mq_count_loss(record, record.state == 'o' and '#pull' or '', now_ms) end
    hand(key, record)
  end
end

local scanned, is_end = 0, false
local is_full = redis.call('HLEN', aside) >= keys_max or redis.call('HLEN', side) >= messages_max
  or (redis.call('MEMORY', 'USAGE', side) or 0) >= memory_max
while #still_open == 0 and not is_full and not is_end and scanned < SCAN_MAX and #claims < limit and bytes < bytes_max do
  local entries = redis.call('XRANGE', stream, '(' .. checkpoint, '+', 'COUNT', STEP)
  is_end = #entries < STEP
  for _, entry in ipairs(entries) do
    if #claims >= limit then
      is_end = false
      break
    end
    local key, is_first = put(entry)
    if is_first then hand(key, mq_side_get(queue, key)) end
    checkpoint = entry[1]
    scanned = scanned + 1
  end
end
local count, lost = tonumber(read or 0) + scanned, 0
if scanned > 0 and is_end then
  local reply, of = redis.call('XINFO', 'STREAM', stream), {}
  for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
  lost = math.max(0, of['entries-added'] - count)
  count = count + lost
end

-- A group that waits in vain writes nothing but an extension now and then.
if adopted > 0 or scanned > 0 or tonumber(held_until) < now_ms + hold_ms / 2 then
  redis.call('HSET', lease, 'until', string.format('%.0f', now_ms + hold_ms), 'checkpoint', checkpoint,
    'floor', still_open[1] or checkpoint, 'open', table.concat(still_open, ' '), 'read', string.format('%.0f', count),
    'losses', 0, 'suspect', '', 'blame', 0, 'alone', 0)
end
local next_due = redis.call('ZRANGE', aside_due, 0, 0, 'WITHSCORES')
local is_more = #still_open > 0 or #claims >= limit or bytes >= bytes_max or (scanned > 0 and not is_end)
return { 1, claims, token, string.format('%.0f', until_ms), is_more and 1 or 0, next_due[2] or '', is_full and 1 or 0, lost }
