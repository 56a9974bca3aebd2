#!lua flags=allow-oom
-- Record what the holder of a partition's lease has finished, bury its dead letters, and extend or release the lease.
--
-- Atomic and fenced; all keys are of one partition. Again has no further effect: an entry that the stored progress holds as
-- finished is not buried twice. `checkpoint`: every entry up to it is finished, except those in `open`. `floor`: the first
-- unfinished entry or the checkpoint; while it stands still, losses of the lease count against it.
-- ARGV behind the named ones: per dead letter the values that mq_bury takes.
-- Returns {1, dead letters evicted by the bound}, or {0, owner} when the token is stale.
local lease = KEYS[1]
local dead = KEYS[2]
local member = ARGV[1]
local token = ARGV[2]
local lease_ms = tonumber(ARGV[3])
local checkpoint = ARGV[4]
local floor = ARGV[5]
local open = ARGV[6]
local read = ARGV[7]
local suspect = ARGV[8]
local is_release = ARGV[9]
local dead_max = ARGV[10]

local owner, held_token, old_checkpoint, old_open, old_floor, old_suspect = unpack(redis.call('HMGET', lease,
  'owner', 'token', 'checkpoint', 'open', 'floor', 'suspect'))
local length = redis.call('XLEN', dead)
if owner ~= member or held_token ~= token then return { 0, owner or '' } end

local function is_finished(entry)
  local ms, count = string.match(entry, '^(%d+)-(%d+)$')
  local old_ms, old_count = string.match(old_checkpoint or '0-0', '^(%d+)-(%d+)$')
  ms, count, old_ms, old_count = tonumber(ms), tonumber(count), tonumber(old_ms), tonumber(old_count)
  if ms > old_ms or (ms == old_ms and count > old_count) then return false end
  for first in string.gmatch(old_open or '', '[^ :]+-%d+') do
    if first == entry then return false end
  end
  return true
end

local buried = 0
for i = 11, #ARGV, MQ_BURY_ARGS do
  if not is_finished(ARGV[i]) then
    mq_bury(dead, dead_max, member, i)
    buried = buried + 1
  end
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', lease, 'until', string.format('%.0f', now_ms + lease_ms), 'checkpoint', checkpoint, 'floor', floor,
  'open', open, 'read', read, 'suspect', suspect)
if floor ~= old_floor then redis.call('HSET', lease, 'losses', 0) end
if suspect ~= (old_suspect or '') then redis.call('HSET', lease, 'blame', 0) end
if is_release == '1' then redis.call('HSET', lease, 'owner', '', 'session', '', 'until', 0, 'losses', 0, 'suspect', '') end
local evicted = 0
if buried > 0 then evicted = length + buried - redis.call('XLEN', dead) end
return { 1, evicted }
