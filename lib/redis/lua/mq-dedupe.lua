#!lua
-- Fragment: what was published to a partition of a topic under which dedupe id, within the topic's window.
--
-- The ids of two windows are kept, in one hash per window by turns; field '' holds the window's number, so a hash that is two
-- windows old is dropped when its turn comes again. Redis TIME decides.

-- Opens the two hashes and checks their types: nothing below fails for them.
local function mq_dedupe_open(even, odd, window_ms, now_ms)
  local number = math.floor(now_ms / window_ms)
  local even_number, odd_number = redis.call('HGET', even, ''), redis.call('HGET', odd, '')
  local this, that = string.format('%.0f', number), string.format('%.0f', number - 1)
  local seen = { now_ms = now_ms, window_ms = window_ms, number = this }
  if number % 2 == 0 then
    seen.this, seen.that, seen.is_begun, seen.is_kept = even, odd, even_number == this, odd_number == that
  else
    seen.this, seen.that, seen.is_begun, seen.is_kept = odd, even, odd_number == this, even_number == that
  end
  return seen
end

local function mq_dedupe_record(seen, hash, dedupe_id)
  local record = redis.call('HGET', hash, dedupe_id)
  if not record then return nil end
  local id, entry, until_ms = string.match(record, '^(%S+) (%S+) (%d+)$')
  if id and tonumber(until_ms) > seen.now_ms then return { id, entry } end
  return nil
end

-- The original's {id, entry id}, or nil when `dedupe_id` is new or ''.
local function mq_dedupe_find(seen, dedupe_id)
  if dedupe_id == '' then return nil end
  return seen.is_begun and mq_dedupe_record(seen, seen.this, dedupe_id)
    or seen.is_kept and mq_dedupe_record(seen, seen.that, dedupe_id) or nil
end

-- Remembers what was appended under `dedupe_id`; '' is nothing to remember.
local function mq_dedupe_put(seen, dedupe_id, id, entry)
  if dedupe_id == '' then return end
  if not seen.is_begun then
    redis.call('UNLINK', seen.this)
    redis.call('HSET', seen.this, '', seen.number)
    redis.call('PEXPIRE', seen.this, string.format('%.0f', 2 * seen.window_ms))
    seen.is_begun = true
  end
  redis.call('HSET', seen.this, dedupe_id, id .. ' ' .. entry .. ' ' .. string.format('%.0f', seen.now_ms + seen.window_ms))
end
