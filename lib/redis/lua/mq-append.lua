#!lua
-- Fragment: append one message to a partition of a topic, from inside any script of that partition.
--
-- One field, named by the header "<id> <type> <key> <sequence> <properties JSON>", holds the data: each argument more would
-- cost Redis 0.15 µs here, and each reader a string. `attributes` ('' or nil for none) stand before it as "@<attributes> ".
-- Returns the entry id. Fails only when `stream` holds another type or Redis is out of memory before the script's first
-- write; a caller that wrote before checks the type first.
local function mq_append(stream, id, message_type, key, sequence, data, properties, attributes)
  local header = id .. ' ' .. message_type .. ' ' .. key .. ' ' .. sequence .. ' ' .. properties
  if attributes and attributes ~= '' then header = '@' .. attributes .. ' ' .. header end
  return redis.call('XADD', stream, '*', header, data)
end
