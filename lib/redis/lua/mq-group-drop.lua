#!lua flags=allow-oom
-- Forget a group in one partition of a topic: its place, what it has in hand, its retries, its side queue and its dead letters.
--
-- Atomic; all keys are of one partition. Trimming waits for it no more. Again has no further effect.
-- Returns 1 when it was registered, else 0.
local stream = KEYS[1]
local groups = KEYS[2]
local lease = KEYS[3]
local retries = KEYS[4]
local attempts = KEYS[5]
local dead = KEYS[6]
local aside = KEYS[7]
local aside_due = KEYS[8]
local side = KEYS[9]
local side_order = KEYS[10]
local group = ARGV[1]

local declared = redis.call('HGET', groups, group)
for _, hash in ipairs({ lease, attempts, aside, side }) do redis.call('HLEN', hash) end
for _, set in ipairs({ retries, aside_due, side_order }) do redis.call('ZCARD', set) end
redis.call('XLEN', dead)
if redis.call('XLEN', stream) > 0 or redis.call('EXISTS', stream) == 1 then
  local generation = declared and string.match(declared, '^%a+ %d+ (%d+)$')
  redis.call('XGROUP', 'DESTROY', stream, generation and group .. '#' .. generation or group)
end
redis.call('UNLINK', lease, retries, attempts, dead, aside, aside_due, side, side_order)
return redis.call('HDEL', groups, group)
