#!lua
-- Fragment: what must be delivered again in one partition of a concurrent group: retries that are due, deliveries whose holders let
-- their lease run out, and the group's place, for the day when the group itself is lost.
--
-- `of` is { stream = , retries = , attempts = , lease = , group = the name in the stream, now_ms = }. The caller has read from all
-- keys before, so nothing here fails for a key's type. Needs mq-lost.lua before it.

-- The attempts record of an entry that was lost once more.
local function mq_lost(text, holder, now_ms)
  local failed, losses, first, history = string.match(text or '0 0 0 ', '^(%d+) (%d+) (%d+) (.*)$')
  local record = { failed = tonumber(failed), losses = tonumber(losses), first = first, history = history }
  mq_count_loss(record, holder, now_ms)
  return string.format('%.0f %.0f %s ', record.failed, record.losses, record.first) .. record.history
end

-- Says to whoever acks (mq-ack.lua) that members have lost deliveries since it last looked.
local function mq_note_claims(of, taken)
  if taken > 0 then redis.call('HINCRBY', of.lease, 'claims', 1) end
end

-- Gives at most `limit` entries to `consumer`, of those that are due and of those that are idle for `lease_ms`. Each counts as handed
-- out once more. Returns a list of {entry id, fields, count, attempts record or ''} and how many were trimmed unread.
local function mq_redeliver(of, consumer, lease_ms, limit)
  local claims, deleted, taken = {}, 0, 0
  local function claim(entry, is_idle)
    local pending = redis.call('XPENDING', of.stream, of.group, entry, entry, 1)[1]
    redis.call('ZREM', of.retries, entry)
    if not pending then return end
    if is_idle then taken = taken + 1 end
    local claimed = redis.call('XCLAIM', of.stream, of.group, consumer, 0, entry)[1]
    if not claimed then
      deleted = deleted + 1
      redis.call('HDEL', of.attempts, entry)
      return
    end
    local record = redis.call('HGET', of.attempts, entry)
    if is_idle or pending[2] == '#pull' then
      record = mq_lost(record, pending[2], of.now_ms)
      redis.call('HSET', of.attempts, entry, record)
    end
    claims[#claims + 1] = { entry, claimed[2], pending[4] + 1, record or '' }
  end

  local summary = redis.call('XPENDING', of.stream, of.group)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', of.retries, '-inf', of.now_ms, 'LIMIT', 0, limit)) do claim(entry, false) end
  if summary[1] > 0 then
    for _, holder in ipairs(summary[4]) do
      local name, room = holder[1], limit - #claims - deleted
      -- What #retry and #pull hold is due by `retries`.
      if room > 0 and name ~= '#retry' and name ~= '#pull' then
        for _, lost in ipairs(redis.call('XPENDING', of.stream, of.group, 'IDLE', lease_ms, '-', '+', room, name)) do
          claim(lost[1], true)
        end
      end
    end
  end
  mq_note_claims(of, taken)
  return claims, deleted
end

-- Stores where a new group would have to begin: before the oldest pending entry, or behind what was delivered.
local function mq_keep_place(of)
  local checkpoint, read = nil, nil
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', of.stream)) do
    local facts = {}
    for i = 1, #reply, 2 do facts[reply[i]] = reply[i + 1] end
    if facts['name'] == of.group then checkpoint, read = facts['last-delivered-id'], facts['entries-read'] or 0 end
  end
  local oldest = redis.call('XPENDING', of.stream, of.group)
  if oldest[1] > 0 then
    local ms, count = string.match(oldest[2], '^(%d+)-(%d+)$')
    if count ~= '0' then
      checkpoint = ms .. '-' .. string.format('%.0f', tonumber(count) - 1)
    else
      checkpoint = string.format('%.0f', tonumber(ms) - 1) .. '-18446744073709551615'
    end
  end
  if checkpoint ~= redis.call('HGET', of.lease, 'checkpoint') then
    redis.call('HSET', of.lease, 'checkpoint', checkpoint, 'floor', checkpoint, 'read', read)
  end
end
