#!lua
-- A burst is over: later messages open another. What it came to is kept under its id until its end is committed.
--
-- One key. Again it returns the same, so whoever dies before the commit is followed by one who sees what he saw.
-- Returns the newest seq of the burst, or false when its end is committed already.
local bursts = KEYS[1]
local burst = ARGV[1]
local id = ARGV[2]

local open = redis.call('HGET', bursts, burst)
if open then
  local opener, last = string.match(open, '^(%S+) (%d+)$')
  if opener == id then
    redis.call('HSET', bursts, id, last)
    redis.call('HDEL', bursts, burst)
    return last
  end
end
return redis.call('HGET', bursts, id)
