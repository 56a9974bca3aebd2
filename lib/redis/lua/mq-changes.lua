#!lua
-- Fragment: what the holder of a partition left behind, applied by the commit that records it as finished. Needs mq-progress.lua,
-- mq-bury.lua and mq-side.lua before it.
--
-- ARGV from `at` on, per change its kind and values; a record is state, failed, losses, first failure ms, wait ms, history:
--   bury  values of mq_bury                  an entry is finished, by its move to dead letters     of entries that the stored
--   put   key, entry, header, data           an entry goes aside, behind the others of its key     progress does not hold as
--   lead  key, entry, header, data, record   an entry and with it its key go aside                 finished
--   back  key, record                        a key that was in hand goes back
--   done  key, entry                         the first message of a key aside is finished
--   drop  key, values of mq_bury             the first message of a key aside is finished, by its move to dead letters
--   alone key, losses                        a key in hand is handed out alone now
--   note  entry, attempts record             what an unfinished entry has cost so far; '' forgets it
-- `place`: the keys `dead` and `attempts`, the side `queue`, and who holds the partition: `member`, `token`, `now_ms`; `dead_max`;
-- `is_finished`, as mq_progress gives it of the progress that is stored.

-- Looks at the keys: nothing below fails for a type.
local function mq_changes_check(place)
  redis.call('XLEN', place.dead)
  redis.call('HLEN', place.attempts)
  mq_side_check(place.queue)
end

-- Returns how many were buried, and the keys of `done` and `drop` that no longer stand aside.
local function mq_apply_changes(at, place)
  local queue, now_ms, is_finished = place.queue, place.now_ms, place.is_finished
  local buried, left = 0, {}
  local function bury(i)
    mq_bury(place.dead, place.dead_max, place.member, i)
    buried = buried + 1
  end
  local function set(key, i, since)
    mq_side_set(queue, key, { state = ARGV[i], since = since, failed = ARGV[i + 1], losses = ARGV[i + 2], first = ARGV[i + 3],
      token = '0', until_ms = 0, history = ARGV[i + 5] }, now_ms + tonumber(ARGV[i + 4]))
  end

  while at <= #ARGV do
    local kind, i, count = ARGV[at], at + 1, nil
    if kind == 'bury' then
      count = MQ_BURY_ARGS
      if not is_finished(ARGV[i]) then bury(i) end
    elseif kind == 'put' or kind == 'lead' then
      count = kind == 'put' and 4 or 10
      if not is_finished(ARGV[i + 1]) then
        mq_side_put(queue, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], now_ms)
        if kind == 'lead' then set(ARGV[i], i + 4, string.format('%.0f', now_ms)) end
      end
    elseif kind == 'back' then
      count = 7
      local record = mq_side_get(queue, ARGV[i])
      if record and record.state == 'h' and record.token == place.token then set(ARGV[i], i + 1, record.since) end
    elseif kind == 'alone' then
      count = 2
      local record = mq_side_get(queue, ARGV[i])
      if record and record.state == 'h' and record.token == place.token then
        record.losses = tonumber(ARGV[i + 1])
        mq_side_set(queue, ARGV[i], record)
      end
    elseif kind == 'done' or kind == 'drop' then
      count = kind == 'done' and 2 or 1 + MQ_BURY_ARGS
      if kind == 'drop' and redis.call('HEXISTS', queue.side, ARGV[i + 1]) == 1 then bury(i + 1) end
      if not mq_side_remove(queue, ARGV[i], ARGV[i + 1]) then left[#left + 1] = ARGV[i] end
    else
      count = 2
      if ARGV[i + 1] == '' then redis.call('HDEL', place.attempts, ARGV[i])
      else redis.call('HSET', place.attempts, ARGV[i], ARGV[i + 1]) end
    end
    at = i + count
  end
  return buried, left
end
