#!lua
-- Append messages to one partition of a topic, each at most once per dedupe id within the window.
--
-- Atomic; all keys are of one partition. The dedupe ids of two windows are kept, in one hash per window by turns; field ''
-- holds the window's number, so a hash that is two windows old is dropped when its turn comes again. Redis TIME decides.
-- ARGV behind the named ones: header and data of each of `count` messages, as mq_append would join the header (an argument more
-- per message costs 0.15 µs here); then, when any has one, the dedupe id of each ('' for none).
-- Returns per message the entry id, or {id, entry id} of the original when it is a duplicate.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local window_ms = tonumber(ARGV[1])
local count = tonumber(ARGV[2])

-- Reading checks the types; nothing behind it fails.
redis.call('XLEN', stream)
local windows = { [0] = even, [1] = odd }
local numbers = { [0] = redis.call('HGET', even, ''), [1] = redis.call('HGET', odd, '') }

local replies = {}
local dedupes_at = 2 + 2 * count
if #ARGV == dedupes_at then
  for i = 3, dedupes_at, 2 do replies[#replies + 1] = redis.call('XADD', stream, '*', ARGV[i], ARGV[i + 1]) end
  return replies
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local number = math.floor(now_ms / window_ms)

local function original(window, wanted, dedupe_id)
  if numbers[window] ~= wanted then return nil end
  local record = redis.call('HGET', windows[window], dedupe_id)
  if not record then return nil end
  local id, entry, until_ms = string.match(record, '^(%S+) (%S+) (%d+)$')
  if id and tonumber(until_ms) > now_ms then return { id, entry } end
  return nil
end

local this, that = number % 2, (number + 1) % 2
local this_number, that_number = string.format('%.0f', number), string.format('%.0f', number - 1)
for i = 1, count do
  local header, data, dedupe_id = ARGV[2 * i + 1], ARGV[2 * i + 2], ARGV[dedupes_at + i]
  local found = nil
  if dedupe_id ~= '' then found = original(this, this_number, dedupe_id) or original(that, that_number, dedupe_id) end
  if found then
    replies[i] = found
  else
    local entry = redis.call('XADD', stream, '*', header, data)
    if dedupe_id ~= '' then
      if numbers[this] ~= this_number then
        redis.call('UNLINK', windows[this])
        redis.call('HSET', windows[this], '', this_number)
        redis.call('PEXPIRE', windows[this], 2 * window_ms)
        numbers[this] = this_number
      end
      local id = string.match(header, '^@%S* (%S+)') or string.match(header, '^%S+')
      redis.call('HSET', windows[this], dedupe_id, id .. ' ' .. entry .. ' ' .. string.format('%.0f', now_ms + window_ms))
    end
    replies[i] = entry
  end
end
return replies
