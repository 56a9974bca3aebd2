#!lua flags=allow-oom
-- Trim from one partition of a topic what is old enough, or too much, and finished by every group.
--
-- Atomic; all keys are of one partition. Never trims at or above a group's floor: its first unfinished entry, or how far it
-- has come. A bounded number of entries per call: the caller repeats. Whole nodes of the stream first; what is then still too much is
-- less than a node, and is trimmed to the entry. Again trims what is then left to trim.
-- KEYS behind the named ones: the groups' leases. ARGV behind the named ones: of each group its name in the stream and its mode.
-- Returns {entries trimmed, entries left}, or {-1, 0} when other groups are registered than the caller knows.
local stream = KEYS[1]
local groups = KEYS[2]
local retention_ms = tonumber(ARGV[1])
local length_max = tonumber(ARGV[2])
local limit = tonumber(ARGV[3])
-- Larger than a node of any sensible setting, and read in well under a millisecond.
local EXACT_MAX = 500

local function is_before(a, b)
  local a_ms, a_count = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_count = string.match(b, '^(%d+)-(%d+)$')
  a_ms, a_count, b_ms, b_count = tonumber(a_ms), tonumber(a_count), tonumber(b_ms), tonumber(b_count)
  return a_ms < b_ms or (a_ms == b_ms and a_count < b_count)
end

if redis.call('XLEN', stream) == 0 then return { 0, 0 } end
if redis.call('HLEN', groups) ~= #KEYS - 2 then return { -1, 0 } end
for i = 3, #KEYS do
  if redis.call('HEXISTS', groups, ARGV[2 * i - 2]) == 0 then return { -1, 0 } end
end
local delivered = {}
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local of = {}
  for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
  delivered[of['name']] = of['last-delivered-id']
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local floor = string.format('%.0f-0', now_ms)
for i = 3, #KEYS do
  local name, mode = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local group_floor = redis.call('HGET', KEYS[i], 'floor') or '0-0'
  if mode == 'concurrent' and delivered[name] then
    local pending = redis.call('XPENDING', stream, name)
    group_floor = pending[1] > 0 and pending[2] or delivered[name]
  end
  if is_before(group_floor, floor) then floor = group_floor end
end

local old = string.format('%.0f-0', now_ms - retention_ms)
if is_before(floor, old) then old = floor end
local trimmed = redis.call('XTRIM', stream, 'MINID', '~', old, 'LIMIT', limit)
local excess = redis.call('XLEN', stream) - length_max
if excess > 0 and trimmed < limit then
  local whole = redis.call('XTRIM', stream, 'MINID', '~', floor, 'LIMIT', math.min(excess, limit - trimmed))
  trimmed, excess = trimmed + whole, excess - whole
  if whole == 0 and excess <= EXACT_MAX then
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', excess + 1)
    local first_kept = oldest[excess + 1] and oldest[excess + 1][1] or floor
    if is_before(floor, first_kept) then first_kept = floor end
    trimmed = trimmed + redis.call('XTRIM', stream, 'MINID', first_kept)
  end
end
return { trimmed, redis.call('XLEN', stream) }
