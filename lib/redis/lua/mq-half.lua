#!lua
-- Fragment: the record of a half message, in two fields of one hash, for a check rewrites the one and not the other.
--
--   <id>           <state> <checks used> <prepared ms> <dedupe window ms> <topic> <producer group> <check URL or ->
--                  <message id> <entry id or -> <1 when its commit was a duplicate>
--   <id>/message   <id> <type> <key> <sequence> <attributes> <bytes of properties> <bytes of dedupe id>\n
--                  <properties><dedupe id><data>
--
-- States: p prepared, c committed, r rolled back, x expired. c and r have no message and are for ever.
local function mq_half_head(text)
  local state, checks, prepared_ms, window_ms, topic, group, url, message_id, entry, duplicate =
    string.match(text, '^(%a) (%d+) (%d+) (%d+) (%S+) (%S+) (%S+) (%S+) (%S+) (%d)$')
  return { state = state, checks = tonumber(checks), prepared_ms = prepared_ms, window_ms = window_ms, topic = topic,
    group = group, url = url, message_id = message_id, entry = entry, duplicate = duplicate }
end

local function mq_half_head_text(head)
  return table.concat({ head.state, string.format('%.0f', head.checks), head.prepared_ms, head.window_ms, head.topic,
    head.group, head.url, head.message_id, head.entry, head.duplicate }, ' ')
end

local function mq_half_message_text(message)
  local line = table.concat({ message.id, message.type, message.key, message.sequence, message.attributes,
    #message.properties, #message.dedupe_id }, ' ')
  return line .. '\n' .. message.properties .. message.dedupe_id .. message.data
end

-- The message of a half that is not decided, or nil when it has none.
local function mq_half_message(half, id)
  local text = redis.call('HGET', half, id .. '/message')
  local message_id, message_type, key, sequence, attributes, properties_size, dedupe_size, rest =
    string.match(text or '', '^(%S+) (%S+) (%S*) (%S*) (%S*) (%d+) (%d+)\n()')
  if not message_id then return nil end
  local dedupe_at = rest + tonumber(properties_size)
  local data_at = dedupe_at + tonumber(dedupe_size)
  return { id = message_id, type = message_type, key = key, sequence = sequence, attributes = attributes,
    properties = string.sub(text, rest, dedupe_at - 1), dedupe_id = string.sub(text, dedupe_at, data_at - 1),
    data = string.sub(text, data_at) }
end

-- As scripts reply it: id, type, key, sequence, data, properties, attributes.
local function mq_half_reply(message)
  return { message.id, message.type, message.key, message.sequence, message.data, message.properties, message.attributes }
end
