#!lua
-- Ask logic to send a broadcast to users of one partition, each once.
--
-- All keys lie under the partition; a user's mark and the command for him are one commit, so again asks for nobody twice.
-- ARGV behind the named ones: per user he and the id of his command.
-- Returns for how many it was not asked before.
local marks = KEYS[1]
local counts = KEYS[2]
local commands = KEYS[3]
local command_start = ARGV[1]
local command_end = ARGV[2]
local life_ms = ARGV[3]
-- command_start, command_end: the command's JSON before and behind the user.

redis.call('SCARD', marks)
redis.call('HLEN', counts)
redis.call('XLEN', commands)
local fresh = 0
for i = 4, #ARGV, 2 do
  local user = ARGV[i]
  if redis.call('SADD', marks, user) == 1 then
    fresh = fresh + 1
    mq_append(commands, ARGV[i + 1], 'im.command.send', user, '', command_start .. user .. command_end, '')
  end
end
if fresh == 0 then return 0 end
redis.call('HINCRBY', counts, 'total', fresh)
for _, key in ipairs({ marks, counts }) do
  if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, life_ms) end
end
return fresh
