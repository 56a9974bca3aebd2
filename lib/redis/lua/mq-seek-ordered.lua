#!lua flags=allow-oom
-- Set an ordered group to another place in one partition, and clear its side queue of what lies before that place.
--
-- Atomic per call; all keys are of one partition. The first call of a seek fences the holder, moves the checkpoint, and holds the
-- lease for `lease_ms`, so that nobody reads before the side queue is cleared; calls with the cursor that the last one returned
-- clear `limit` messages each; the last one frees the lease. Of the messages aside behind the place only those stay whose entries
-- are trimmed: the others are read again, in order. Their keys are tried anew, parked ones too, and attempts are forgotten.
-- `start` and `read` as mq_place takes them. `seek` names the seek: the same call again has no further effect.
-- Returns {'', cursor of the next call or '' when it is done}, or why not: {the mode of the group when it is another}, {'unregistered'}.
local stream = KEYS[1]
local groups = KEYS[2]
local lease = KEYS[3]
local attempts = KEYS[4]
local aside = KEYS[5]
local aside_due = KEYS[6]
local side = KEYS[7]
local side_order = KEYS[8]
local group = ARGV[1]
local start = ARGV[2]
local read = ARGV[3]
local seek = ARGV[4]
local lease_ms = tonumber(ARGV[5])
local cursor = ARGV[6]
local limit = tonumber(ARGV[7])

local declared = redis.call('HGET', groups, group)
local owner, token, checkpoint, sought = unpack(redis.call('HMGET', lease, 'owner', 'token', 'checkpoint', 'sought'))
local queue = { aside = aside, due = aside_due, side = side, order = side_order }
mq_side_check(queue)
redis.call('HLEN', attempts)
local place, place_read = mq_place(stream, start, read)
local mode = declared and string.match(declared, '^%a+') or 'unregistered'
if mode ~= 'ordered' then return { mode } end
-- It is done, or it took so long that the group goes on.
if sought == seek and owner ~= '#seek' then return { '', '' } end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if sought ~= seek then
  checkpoint = place
  token = string.format('%.0f', math.max(tonumber(token or 0) + 1, time[1] * 1000000 + time[2]))
  redis.call('HSET', lease, 'owner', '#seek', 'session', seek, 'token', token, 'sought', seek, 'sought_at', token,
    'checkpoint', place, 'floor', place, 'read', place_read, 'open', '', 'losses', 0, 'suspect', '', 'blame', 0, 'alone', 0)
  redis.call('UNLINK', attempts)
end
redis.call('HSET', lease, 'until', string.format('%.0f', now_ms + lease_ms))

local function is_before(a, b)
  local a_ms, a_count = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_count = string.match(b, '^(%d+)-(%d+)$')
  a_ms, a_count, b_ms, b_count = tonumber(a_ms), tonumber(a_count), tonumber(b_ms), tonumber(b_count)
  return a_ms < b_ms or (a_ms == b_ms and a_count < b_count)
end
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local waiting = redis.call('ZRANGEBYLEX', side_order, cursor == '' and '-' or '(' .. cursor, '+', 'LIMIT', 0, limit)
local last_key = nil
for _, member in ipairs(waiting) do
  local key, entry = mq_side_of(member)
  if not is_before(checkpoint, entry) or (first and not is_before(entry, first[1])) then
    mq_side_remove(queue, key, entry)
  elseif key ~= last_key then
    mq_side_set(queue, key, mq_side_fresh(now_ms), now_ms)
    last_key = key
  end
end
if #waiting == limit then return { '', waiting[limit] } end
redis.call('HSET', lease, 'owner', '', 'session', '', 'until', 0)
return { '', '' }
