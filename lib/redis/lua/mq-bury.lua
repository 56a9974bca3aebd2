#!lua
-- Fragment: move a message to a group's dead letters, from inside the script that says the group has finished it.
--
-- `at`: where in ARGV its 13 values begin: entry, id, type, key, sequence, data, properties, attributes, reason, error, attempts,
-- first failure ms, history JSON. The caller has checked the type of `dead` before its first write.
local MQ_BURY_ARGS = 13
local function mq_bury(dead, dead_max, member, at)
  redis.call('XADD', dead, 'MAXLEN', dead_max, '*', 'i', ARGV[at + 1], 't', ARGV[at + 2], 'k', ARGV[at + 3],
    's', ARGV[at + 4], 'd', ARGV[at + 5], 'p', ARGV[at + 6], 'a', ARGV[at + 7], 'entry', ARGV[at], 'reason', ARGV[at + 8],
    'error', ARGV[at + 9], 'attempts', ARGV[at + 10], 'first', ARGV[at + 11], 'history', ARGV[at + 12], 'member', member)
end
