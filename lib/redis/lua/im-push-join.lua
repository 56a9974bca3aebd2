#!lua
-- A message waits for a user's eyes: open a burst of its conversation, or join the one that is open.
--
-- All keys lie under the user's partition. A burst is opened together with the delayed message that ends it, of whose id it is;
-- so an open burst has its end before it, unless that was taken out of the queue: then another one is opened. Again with a seq
-- that the burst has changes nothing.
-- Returns 'opened', 'joined', 'none' (the user has no device to push to), or 'full' (no more may wait in the partition).
local push = KEYS[1]
local bursts = KEYS[2]
local records = KEYS[3]
local due = KEYS[4]
local ended = KEYS[5]
local relay = KEYS[6]
local user = ARGV[1]
local conversation = ARGV[2]
local seq = ARGV[3]
local wait_ms = tonumber(ARGV[4])
local id = ARGV[5]
local pending_max = tonumber(ARGV[6])

local burst = user .. '/' .. conversation
local shelf = { records = records, due = due, ended = ended, relay = relay }
local room = mq_delay_check(shelf, pending_max)
local open = redis.call('HGET', bursts, burst)
if redis.call('HLEN', push) == 0 then return 'none' end
local opener, last = string.match(open or '', '^(%S+) (%d+)$')
local ending = opener and mq_delay_get(shelf, opener)
if ending and ending.state ~= 'C' then
  if tonumber(seq) > tonumber(last) then redis.call('HSET', bursts, burst, opener .. ' ' .. seq) end
  return 'joined'
end
if room <= 0 then return 'full' end
redis.call('HSET', bursts, burst, id .. ' ' .. seq)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local data = '{"user":"' .. user .. '","conversation":"' .. conversation .. '"}'
-- No stream: what waits at all is not appended here.
mq_delay(shelf, nil, now_ms, now_ms + wait_ms, '', 'im.push', id .. ' im.push.due ' .. user .. '  ', data)
return 'opened'
