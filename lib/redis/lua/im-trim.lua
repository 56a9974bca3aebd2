#!lua
-- Trim a conversation's hot window behind the archive, and with it what was folded about the messages that go.
--
-- One partition's hash tag. Folded state that is newer than the archive stays, whatever becomes of its message. Each trim that
-- took folded state away is counted, so that who read the archive meanwhile notices.
-- Returns how many folded parts went.
local log = KEYS[1]
local folds = KEYS[2]
local keep_from = ARGV[1]
local through = tonumber(ARGV[2])
-- Then a key per message, the users who reacted to it; and as arguments the messages' seqs, all below keep_from.

local first = 3
redis.call('HLEN', folds)
redis.call('XTRIM', log, 'MINID', keep_from .. '-0')
local gone = 0
for i = first, #ARGV do
  local content, reactions = ARGV[i] .. 'c', ARGV[i] .. 'r'
  local parts = redis.call('HMGET', folds, content, reactions)
  if parts[1] and tonumber(string.match(parts[1], '^%d+')) <= through then gone = gone + redis.call('HDEL', folds, content) end
  if parts[2] and tonumber(string.match(parts[2], '^%d+')) <= through then
    gone = gone + redis.call('HDEL', folds, reactions)
    redis.call('DEL', KEYS[i - first + 3])
  end
end
if gone > 0 then redis.call('HINCRBY', folds, '#', 1) end
return gone
