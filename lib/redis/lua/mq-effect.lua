#!lua
-- Fragment: messages and writes that a script does together with what else it does, or not at all: of a consumer's transaction,
-- and of publishing with writes. Put behind mq-append.lua, mq-dedupe.lua, mq-delay.lua and mq-writes.lua.
--
-- ARGV from `at`: how many messages, how many keys they have; per message the number of its first key, the number of its shelf's
-- first key or 0, dedupe window ms, how many entries its topic may hold (with a shelf: how many records may wait), header, data,
-- dedupe id ('' for none), and of a delayed one due ms, condition, topic ('' otherwise); then the writes, as mq-writes.lua takes
-- them. Key n is KEYS[first_key + n]: of a message stream, even, odd, groups; of a shelf records, due, ended, relay; behind
-- all of them those of the writes.
local MQ_EFFECT_MESSAGE_ARGS = 10

-- Returns the effect, and the place in ARGV behind it.
local function mq_effect_read(at, first_key)
  local messages, place = {}, at + 2
  for i = 1, tonumber(ARGV[at]) do
    local key, shelf = first_key + tonumber(ARGV[place]), tonumber(ARGV[place + 1])
    local message = { at = place, stream = KEYS[key], even = KEYS[key + 1], odd = KEYS[key + 2], groups = KEYS[key + 3] }
    if shelf > 0 then
      shelf = first_key + shelf
      message.shelf = { records = KEYS[shelf], due = KEYS[shelf + 1], ended = KEYS[shelf + 2], relay = KEYS[shelf + 3] }
    end
    messages[i] = message
    place = place + MQ_EFFECT_MESSAGE_ARGS
  end
  local writes
  writes, place = mq_writes_read(place, first_key + tonumber(ARGV[at + 1]))
  return { messages = messages, writes = writes }, place
end

-- What the effects of one script share: what each leaves for those behind it.
local function mq_effect_plan(now_ms)
  return { now_ms = now_ms, seen = {}, room = {}, shelf_room = nil, states = {} }
end

-- Looks at every key of an effect; behind that nothing of it fails. Returns {'full', number of the message} or {'write', number of
-- the write, why} when it is not possible, else nil.
local function mq_effect_refusal(plan, effect)
  for i, message in ipairs(effect.messages) do
    local stream, at = message.stream, message.at
    local limit = tonumber(ARGV[at + 3])
    if not plan.seen[stream] then
      plan.seen[stream] = mq_dedupe_open(message.even, message.odd, tonumber(ARGV[at + 2]), plan.now_ms)
    end
    local length, readers = redis.call('XLEN', stream), redis.call('HLEN', message.groups)
    local room
    if message.shelf then
      plan.shelf_room = plan.shelf_room or mq_delay_check(message.shelf, limit)
      plan.shelf_room = plan.shelf_room - 1
      room = plan.shelf_room
    else
      plan.room[stream] = (plan.room[stream] or (readers > 0 and limit - length or math.huge)) - 1
      room = plan.room[stream]
    end
    if room < 0 then return { 'full', i } end
  end
  local refusal = mq_writes_refusal(effect.writes, plan.states)
  return refusal and { 'write', refusal[1], refusal[2] }
end

-- Does it. Returns per message {id, entry id or @ and due ms, 1 when it is a duplicate}.
local function mq_effect_apply(plan, effect)
  local outcomes = {}
  for i, message in ipairs(effect.messages) do
    local at, seen = message.at, plan.seen[message.stream]
    local header, data, dedupe_id = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
    local original = mq_dedupe_find(seen, dedupe_id)
    if original then
      outcomes[i] = { original[1], original[2], 1 }
    else
      local id = string.match(header, '^@%S* (%S+)') or string.match(header, '^%S+')
      local entry, due_ms
      if message.shelf then
        entry, due_ms = mq_delay(message.shelf, message.stream, plan.now_ms, tonumber(ARGV[at + 7]), ARGV[at + 8], ARGV[at + 9],
          header, data)
        entry = entry or '@' .. string.format('%.0f', due_ms)
      else
        entry = redis.call('XADD', message.stream, '*', header, data)
      end
      mq_dedupe_put(seen, dedupe_id, id, entry)
      outcomes[i] = { id, entry, 0 }
    end
  end
  mq_writes_apply(effect.writes)
  return outcomes
end

-- Of the outcomes, per message 1 when it was appended to its topic, for the counters.
local function mq_effect_appended(outcomes)
  local appended = {}
  for i, outcome in ipairs(outcomes) do
    appended[i] = outcome[3] == 0 and string.sub(outcome[2], 1, 1) ~= '@' and 1 or 0
  end
  return appended
end
