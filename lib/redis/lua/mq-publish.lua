#!lua
-- Append messages to one partition of a topic, each at most once per dedupe id within the window.
--
-- Atomic; all keys are of one partition. The dedupe ids of two windows are kept, in one hash per window by turns; field ''
-- holds the window's number, so a hash that is two windows old is dropped when its turn comes again. Redis TIME decides.
-- ARGV behind the window, per message: id, type, key, sequence, data, properties, attributes, dedupe id ('' for none).
-- Returns per message the entry id, or {id, entry id} of the original when it is a duplicate.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local window_ms = tonumber(ARGV[1])

-- Reading checks the types; nothing behind it fails.
redis.call('XLEN', stream)
local windows = { [0] = even, [1] = odd }
local numbers = { [0] = redis.call('HGET', even, ''), [1] = redis.call('HGET', odd, '') }
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

local replies = {}
local this, that = number % 2, (number + 1) % 2
local this_number, that_number = string.format('%.0f', number), string.format('%.0f', number - 1)
for i = 2, #ARGV, 8 do
  local dedupe_id = ARGV[i + 7]
  local found = nil
  if dedupe_id ~= '' then found = original(this, this_number, dedupe_id) or original(that, that_number, dedupe_id) end
  if found then
    replies[#replies + 1] = found
  else
    local entry = mq_append(stream, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6])
    if dedupe_id ~= '' then
      if numbers[this] ~= this_number then
        redis.call('UNLINK', windows[this])
        redis.call('HSET', windows[this], '', this_number)
        redis.call('PEXPIRE', windows[this], 2 * window_ms)
        numbers[this] = this_number
      end
      redis.call('HSET', windows[this], dedupe_id, ARGV[i] .. ' ' .. entry .. ' ' .. string.format('%.0f', now_ms + window_ms))
    end
    replies[#replies + 1] = entry
  end
end
return replies
