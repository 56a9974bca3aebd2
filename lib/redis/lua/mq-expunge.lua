#!lua flags=allow-oom
-- Look through one partition of a topic for the entries that name somebody, and delete those that every group has finished.
--
-- Atomic; all keys are of one partition. An entry names him when its order key is `key` (not ''), or its data holds one of the texts.
-- Starts behind `after`, stops after `scan_max` entries or `bytes_max` bytes. Again finds what is then there.
-- KEYS behind the named ones: the groups' leases. ARGV behind the named ones: the `text_count` texts; then of each group its name in
-- the stream and its mode.
-- Returns {entries deleted, the last entry looked at or '', 1 when nothing is left behind it, per group how many of the others it has
-- not finished}, or {-1} when other groups are registered than the caller knows.
local stream = KEYS[1]
local groups = KEYS[2]
local after = ARGV[1]
local key = ARGV[2]
local scan_max = tonumber(ARGV[3])
local bytes_max = tonumber(ARGV[4])
local text_count = tonumber(ARGV[5])
local KEYS_NAMED, ARGS_NAMED = 2, 5

-- Bodies have up to 256 KB: not more of them at a time than are soon copied.
local STEP = 32

local count = #KEYS - KEYS_NAMED
if redis.call('HLEN', groups) ~= count then return { -1 } end
local delivered = {}
if redis.call('XLEN', stream) > 0 then
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local of = {}
    for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
    delivered[of['name']] = of['last-delivered-id']
  end
end

-- Per group, what tells of an entry whether the group has finished it.
local finished, waiting = {}, {}
for i = 1, count do
  local at = ARGS_NAMED + text_count + 2 * i
  local name, mode = ARGV[at - 1], ARGV[at]
  if redis.call('HEXISTS', groups, string.match(name, '^[^#]+')) == 0 then return { -1 } end
  waiting[i] = 0
  if mode == 'concurrent' then
    local is_delivered = mq_progress(delivered[name] or '0-0', '')
    finished[i] = function(entry)
      return is_delivered(entry) and #redis.call('XPENDING', stream, name, entry, entry, 1) == 0
    end
  else
    local progress = redis.call('HMGET', KEYS[KEYS_NAMED + i], 'checkpoint', 'open')
    finished[i] = mq_progress(progress[1] or '0-0', progress[2] or '')
  end
end

local function names(header, data)
  if key ~= '' and key == (string.match(header, '^@%S+ %S+ %S+ (%S*)') or string.match(header, '^%S+ %S+ (%S*)')) then return true end
  for i = ARGS_NAMED + 1, ARGS_NAMED + text_count do
    if string.find(data, ARGV[i], 1, true) then return true end
  end
  return false
end

local gone, last, scanned, bytes, is_end = {}, after, 0, 0, 0
while scanned < scan_max and bytes < bytes_max and is_end == 0 do
  local entries = redis.call('XRANGE', stream, last == '' and '-' or '(' .. last, '+', 'COUNT', STEP)
  for _, entry in ipairs(entries) do
    local header, data = entry[2][1], entry[2][2] or ''
    last, bytes = entry[1], bytes + #header + #data
    if names(header, data) then
      local is_finished = true
      for i = 1, count do
        if not finished[i](last) then is_finished, waiting[i] = false, waiting[i] + 1 end
      end
      if is_finished then gone[#gone + 1] = last end
    end
  end
  scanned = scanned + #entries
  if #entries < STEP then is_end = 1 end
end
if #gone > 0 then redis.call('XDEL', stream, unpack(gone)) end
return { #gone, last, is_end, waiting }
