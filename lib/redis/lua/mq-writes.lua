#!lua
-- Fragment: writes to keys of the user's own, together with whatever else a script does. First all of them are checked, each as
-- if those before it were done; what passes cannot fail, so a script appends and records first and applies them last.
--
-- ARGV from `at`: the number of writes; per write its command, the number of its key (KEYS[first_key + number]), the number of
-- its arguments, and these. Counts and forms of arguments are checked by lib/mq/writes.ts. Integers stay within 2^53, beyond
-- which Lua cannot tell whether Redis' addition would overflow.
local MQ_WRITE_TYPES = { SET = 'string', INCRBY = 'string', HSET = 'hash', HDEL = 'hash', HINCRBY = 'hash', SADD = 'set',
  SREM = 'set', ZADD = 'zset', ZINCRBY = 'zset', ZREM = 'zset', RPUSH = 'list', LPUSH = 'list', DEL = 'any', PEXPIRE = 'any' }
local MQ_INTEGER_MAX = 9007199254740992

-- Returns the writes, and the place in ARGV behind them.
local function mq_writes_read(at, first_key)
  local writes = {}
  local place = at + 1
  for i = 1, tonumber(ARGV[at]) do
    local from = place + 3
    place = from + tonumber(ARGV[place + 2])
    writes[i] = { command = ARGV[from - 3], key = KEYS[first_key + tonumber(ARGV[from - 2])], from = from, to = place - 1 }
  end
  return writes, place
end

local function mq_integer(text)
  if text ~= '0' and not string.match(text, '^%-?[1-9]%d*$') then return nil end
  local number = tonumber(text)
  if math.abs(number) > MQ_INTEGER_MAX then return nil end
  return number
end

-- What stands at a place (a string key, or a hash field) after the writes so far, or nil when nothing does.
local function mq_write_value(state, place, command, ...)
  local known = state.values[place]
  if known ~= nil then return known or nil end
  if state.is_new then return nil end
  return redis.call(command, ...) or nil
end

-- Adds to an integer in thought. Returns why that is not possible, or nil.
local function mq_write_add(state, place, current, by)
  local number = mq_integer(current or '0')
  if not number then return 'holds no integer within 2^53' end
  number = number + tonumber(by)
  if math.abs(number) > MQ_INTEGER_MAX then return 'would leave the integers within 2^53' end
  state.values[place] = string.format('%.0f', number)
  return nil
end

-- Returns {number of the first write that is not possible, why}, or nil when all are. `states`: what the writes that were looked at
-- before make of their keys, {} at first; of no further use when one is refused.
local function mq_writes_refusal(writes, states)
  for i, write in ipairs(writes) do
    local command, key, from = write.command, write.key, write.from
    local wanted = MQ_WRITE_TYPES[command]
    if not wanted then return { i, 'is no write: ' .. command } end
    local state = states[key]
    if not state then
      local held = redis.call('TYPE', key).ok
      -- `values`: what the writes so far made of the string ('') or of fields; false for removed.
      state = { holds = held, is_new = held == 'none', values = {} }
      states[key] = state
    end
    if wanted ~= 'any' then
      if state.holds ~= 'none' and state.holds ~= wanted then
        return { i, 'its key holds a ' .. state.holds .. ', not a ' .. wanted }
      end
      state.holds = wanted
    end
    local fault = nil
    if command == 'DEL' then
      states[key] = { holds = 'none', is_new = true, values = {} }
    elseif command == 'SET' then
      state.values[''] = ARGV[from]
    elseif command == 'INCRBY' then
      fault = mq_write_add(state, '', mq_write_value(state, '', 'GET', key), ARGV[from])
    elseif command == 'HSET' then
      for place = from, write.to, 2 do state.values[ARGV[place]] = ARGV[place + 1] end
    elseif command == 'HDEL' then
      for place = from, write.to do state.values[ARGV[place]] = false end
    elseif command == 'HINCRBY' then
      local field = ARGV[from]
      fault = mq_write_add(state, field, mq_write_value(state, field, 'HGET', key, field), ARGV[from + 1])
    end
    if fault then return { i, fault } end
  end
  return nil
end

-- At most 128 arguments each: lib/mq/writes.ts.
local function mq_writes_apply(writes)
  for _, write in ipairs(writes) do redis.call(write.command, write.key, unpack(ARGV, write.from, write.to)) end
end
