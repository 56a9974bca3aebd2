#!lua
-- Append delayed messages of one partition to their topics, those that are due by Redis TIME and meet their conditions.
--
-- Atomic per record; all keys are of one partition. A record ends in the step that appends its message, so again has no further
-- effect. `is_forced` 1: whether due or not, and without asking for its condition. A key of another type leaves the record as
-- it is and the others untouched.
-- KEYS behind the named ones: streams of topics, keys that conditions look at. ARGV behind the named ones, per record: its id, the
-- position in KEYS of its topic's stream, and of its condition's key or 0.
-- Returns {Redis TIME in ms, one element per record}: {'fired', entry id, ms late}, {'dropped', 'expired' or 'condition'},
-- {'early', due ms, version}, {'ended', state}, {'missing'} or {'failed', error}.
local records = KEYS[1]
local due = KEYS[2]
local ended = KEYS[3]
local is_forced = ARGV[1]

redis.call('HLEN', records)
redis.call('ZCARD', due)
redis.call('ZCARD', ended)
local shelf = { records = records, due = due, ended = ended }
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- Whether a condition holds. Fails when its key holds another type.
local function holds(text, key)
  local condition = cjson.decode(text)
  if condition.kind == 'keyAbsent' then return redis.call('EXISTS', key) == 0 end
  if condition.kind == 'keyEquals' then return redis.call('GET', key) == condition.value end
  local words = redis.call('HGET', key, condition.field)
  if not words then return false end
  local number = 0
  for word in string.gmatch(words, '%S+') do
    number = number + 1
    if number == condition.word then
      local value = tonumber(word)
      return value ~= nil and value < condition.limit
    end
  end
  return false
end

local function fire(id, stream, condition_key)
  local record = mq_delay_get(shelf, id)
  if not record then return { 'missing' } end
  if record.state ~= 'P' then return { 'ended', record.state } end
  local late_ms = now_ms - tonumber(record.due)
  if is_forced ~= '1' then
    if late_ms < 0 then return { 'early', record.due, record.version } end
  elseif late_ms < 0 then
    late_ms = 0
  end
  if record.expires ~= '0' and tonumber(record.expires) < now_ms then
    mq_delay_end(shelf, id, record, 'D', 'expired', now_ms)
    return { 'dropped', 'expired' }
  end
  if record.condition ~= '' and is_forced ~= '1' then
    local is_known, is_met = pcall(holds, record.condition, condition_key)
    if not is_known then return { 'failed', 'its condition cannot be judged: the key holds another type' } end
    if not is_met then
      mq_delay_end(shelf, id, record, 'D', 'condition', now_ms)
      return { 'dropped', 'condition' }
    end
  end
  local header, data = string.match(redis.call('HGET', records, id .. ':') or '', '^([^\n]*)\n(.*)$')
  if not header then return { 'failed', 'the record has no message' } end
  local entry = redis.pcall('XADD', stream, '*', header, data)
  if type(entry) == 'table' then return { 'failed', entry.err } end
  mq_delay_end(shelf, id, record, 'F', entry, now_ms)
  return { 'fired', entry, late_ms }
end

local replies = { now_ms }
for i = 2, #ARGV, 3 do
  replies[#replies + 1] = fire(ARGV[i], KEYS[tonumber(ARGV[i + 1])], KEYS[tonumber(ARGV[i + 2])])
end
return replies
