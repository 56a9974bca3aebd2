#!lua
-- Fragment: append one message to a partition of a topic, from inside any script of that partition.
--
-- All six fields always, in this order: Redis then stores their names once per listpack, not once per entry.
-- Returns the entry id. Fails only when `stream` holds another type or Redis is out of memory before the script's first
-- write; a caller that wrote before checks the type first.
local function mq_append(stream, id, message_type, key, sequence, data, properties)
  return redis.call('XADD', stream, '*', 'i', id, 't', message_type, 'k', key, 's', sequence, 'd', data, 'p', properties)
end
