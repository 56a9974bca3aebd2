#!lua flags=allow-oom
-- Record what the holder of a partition's lease has finished and what that left behind, and extend or release the lease.
--
-- Atomic and fenced; all keys are of one partition. Again has no further effect: of the commits under one token one with a lower
-- `number` than the last came late, and no change is made twice. `checkpoint`: every entry up to it is finished, except those in
-- `open`. `floor`: the first unfinished entry or the checkpoint; while it stands still, losses of the lease count against it.
-- ARGV behind the named ones: changes, as mq_apply_changes takes them.
-- Returns {1, dead letters evicted by the bound, keys that no longer stand aside}, or {0, owner} when the token is stale.
local lease = KEYS[1]
local dead = KEYS[2]
local attempts = KEYS[3]
local aside = KEYS[4]
local aside_due = KEYS[5]
local side = KEYS[6]
local side_order = KEYS[7]
local member = ARGV[1]
local token = ARGV[2]
local number = ARGV[3]
local lease_ms = tonumber(ARGV[4])
local checkpoint = ARGV[5]
local floor = ARGV[6]
local open = ARGV[7]
local read = ARGV[8]
local suspect = ARGV[9]
local is_release = ARGV[10]
local dead_max = ARGV[11]

local owner, held_token, last_number, old_checkpoint, old_open, old_floor, old_suspect = unpack(redis.call('HMGET', lease,
  'owner', 'token', 'commit', 'checkpoint', 'open', 'floor', 'suspect'))
if owner ~= member or held_token ~= token then return { 0, owner or '' } end
if tonumber(number) <= tonumber(last_number or 0) then return { 1, 0, {} } end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local evicted, left = 0, {}
if #ARGV > 11 then
  local length, buried = redis.call('XLEN', dead), 0
  buried, left = mq_apply_changes(12, { dead = dead, dead_max = dead_max, attempts = attempts, member = member, token = token,
    now_ms = now_ms, checkpoint = old_checkpoint or '0-0', open = old_open or '',
    queue = { aside = aside, due = aside_due, side = side, order = side_order } })
  if buried > 0 then evicted = length + buried - redis.call('XLEN', dead) end
end

redis.call('HSET', lease, 'until', string.format('%.0f', now_ms + lease_ms), 'commit', number, 'checkpoint', checkpoint,
  'floor', floor, 'open', open, 'read', read, 'suspect', suspect)
if floor ~= old_floor then redis.call('HSET', lease, 'losses', 0) end
if suspect ~= (old_suspect or '') then redis.call('HSET', lease, 'blame', 0) end
if is_release == '1' then redis.call('HSET', lease, 'owner', '', 'session', '', 'until', 0, 'losses', 0, 'suspect', '') end
return { 1, evicted, left }
