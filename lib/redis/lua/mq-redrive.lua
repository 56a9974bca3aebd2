#!lua
-- Bring dead letters of a group back in one partition: each is appended anew, addressed to that group alone, and leaves the dead
-- letters with it.
--
-- Atomic; all keys are of one partition. Again has no further effect: a letter that was redriven is not found. The message keeps
-- its id, tag and expiry, and its place of origin in `o`. The group's hash gets the time, so that a search for such entries knows
-- up to where there are any. `is_dry` 1: only says what would become of each.
-- ARGV behind the named ones: the letters' ids.
-- Returns what became of the first ones, until `bytes_max` were moved: `redriven`, `not_found`, `limit` it was redriven too often,
-- `expired` nobody would be given it, `malformed` the entry was no message. The caller goes on with the rest.
local stream = KEYS[1]
local dead = KEYS[2]
local lease = KEYS[3]
local group = ARGV[1]
local redrives_max = tonumber(ARGV[2])
local bytes_max = tonumber(ARGV[3])
local is_dry = ARGV[4]

redis.call('XLEN', stream)
redis.call('XLEN', dead)
redis.call('HLEN', lease)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function attribute(text, name) return string.match(';' .. text, ';' .. name .. '=([^;]*)') end

-- An entry that was no message has no type; one that mq_bury did not write lacks fields.
local function is_message(of)
  for _, name in ipairs({ 'i', 'k', 's', 'd', 'p', 'entry' }) do
    if not of[name] then return false end
  end
  return (of['t'] or '') ~= ''
end

local outcomes, bytes, is_any = {}, 0, false
for i = 5, #ARGV do
  if bytes >= bytes_max then break end
  local outcome = 'not_found'
  local letter = redis.call('XRANGE', dead, ARGV[i], ARGV[i])[1]
  if letter then
    local of = {}
    for j = 1, #letter[2], 2 do of[letter[2][j]] = letter[2][j + 1] end
    local known = of['a'] or ''
    local redrives = tonumber(attribute(known, 'r') or 0)
    local tag, expires = attribute(known, 't'), attribute(known, 'x')
    bytes = bytes + #(of['d'] or '')
    if not is_message(of) then
      outcome = 'malformed'
    elseif redrives >= redrives_max then
      outcome = 'limit'
    elseif expires and tonumber(expires) < now_ms then
      outcome = 'expired'
    else
      outcome = 'redriven'
    end
    if outcome == 'redriven' and is_dry ~= '1' then
      local origin = attribute(known, 'o') or (of['s'] ~= '' and of['s'] or of['entry'])
      local attributes = string.format('g=%s;r=%d;o=%s', group, redrives + 1, origin)
      if tag then attributes = 't=' .. tag .. ';' .. attributes end
      if expires then attributes = 'x=' .. expires .. ';' .. attributes end
      mq_append(stream, of['i'], of['t'], of['k'], of['s'], of['d'], of['p'], attributes)
      redis.call('XDEL', dead, ARGV[i])
      is_any = true
    end
  end
  outcomes[#outcomes + 1] = outcome
end
if is_any then redis.call('HSET', lease, 'redriven', string.format('%.0f', now_ms)) end
return outcomes
