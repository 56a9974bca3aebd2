#!lua flags=allow-oom
-- Record what the holder of a partition's lease has finished and what that left behind, and extend or release the lease.
--
-- Atomic and fenced; all keys are of one partition. Again has no further effect: of the commits under one token one with a lower
-- `number` than the last came late, and no change is made twice. `checkpoint`: every entry up to it is finished, except those in
-- `open`. `floor`: the first unfinished entry or the checkpoint; while it stands still, losses of the lease count against it.
-- `suspect`: the entry that is blamed for them; `is_alone` while it is in hand, and nothing else.
-- ARGV behind the named ones: `effects` effects of consume transactions, each an entry that it finishes, its key when it comes from
-- aside (else ''), the number of keys before its own (behind the named), and the effect as mq-effect.lua takes it; then changes, as
-- mq_apply_changes takes them. An effect is done only when its entry was not finished before.
-- Returns {1, dead letters evicted by the bound, keys that no longer stand aside, per effect what mq_effect_appended gives}, {0, owner}
-- when the token is stale, or {2, number of the effect that is not possible, why}, and nothing is recorded.
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
local is_alone = ARGV[10]
local is_release = ARGV[11]
local dead_max = ARGV[12]
local effects = tonumber(ARGV[13])
local KEYS_NAMED, ARGS_NAMED = 7, 13

local owner, held_token, last_number, old_checkpoint, old_open, old_floor, old_suspect = unpack(redis.call('HMGET', lease,
  'owner', 'token', 'commit', 'checkpoint', 'open', 'floor', 'suspect'))
if owner ~= member or held_token ~= token then return { 0, owner or '' } end
if tonumber(number) <= tonumber(last_number or 0) then return { 1, 0, {}, {} } end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local evicted, left, appended = 0, {}, {}
if #ARGV > ARGS_NAMED then
  local queue = { aside = aside, due = aside_due, side = side, order = side_order }
  local place = { dead = dead, dead_max = dead_max, attempts = attempts, member = member, token = token, now_ms = now_ms,
    is_finished = mq_progress(old_checkpoint or '0-0', old_open or ''), queue = queue }
  mq_changes_check(place)
  local plan, carried, at = mq_effect_plan(now_ms), {}, ARGS_NAMED + 1
  for i = 1, effects do
    local entry, key = ARGV[at], ARGV[at + 1]
    local effect
    effect, at = mq_effect_read(at + 3, KEYS_NAMED + tonumber(ARGV[at + 2]))
    local is_finished
    if key == '' then is_finished = place.is_finished(entry) else is_finished = redis.call('HEXISTS', side, entry) == 0 end
    local refusal = not is_finished and mq_effect_refusal(plan, effect)
    if refusal then return { 2, i, refusal } end
    carried[i] = { entry = entry, key = key, effect = not is_finished and effect }
  end

  local length, buried = redis.call('XLEN', dead), 0
  buried, left = mq_apply_changes(at, place)
  if buried > 0 then evicted = length + buried - redis.call('XLEN', dead) end
  for i, each in ipairs(carried) do
    appended[i] = each.effect and mq_effect_appended(mq_effect_apply(plan, each.effect)) or {}
    if each.key ~= '' and not mq_side_remove(queue, each.key, each.entry) then left[#left + 1] = each.key end
  end
end

redis.call('HSET', lease, 'until', string.format('%.0f', now_ms + lease_ms), 'commit', number, 'checkpoint', checkpoint,
  'floor', floor, 'open', open, 'read', read, 'suspect', suspect, 'alone', is_alone)
if floor ~= old_floor then redis.call('HSET', lease, 'losses', 0) end
if suspect ~= (old_suspect or '') then redis.call('HSET', lease, 'blame', 0) end
if is_release == '1' then
  redis.call('HSET', lease, 'owner', '', 'session', '', 'until', 0, 'losses', 0, 'suspect', '', 'alone', 0)
end
return { 1, evicted, left, appended }
