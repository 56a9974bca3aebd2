#!lua
-- Keep a message that no group sees before its producer has decided: a half message.
--
-- Atomic; all keys are of one partition. Again under the same id has no further effect. Redis TIME decides when it is checked
-- first, and when its budget is over. `due` is of the producer group, or of all those with a check URL. A topic that is full
-- (mq-publish.lua) takes none; what is prepared may be committed whatever becomes of the topic.
-- Returns {'prepared', prepared ms}, {'many'} when so many are open already, or {'full'} when the topic is.
local half = KEYS[1]
local due = KEYS[2]
local prepared = KEYS[3]
local stream = KEYS[4]
local groups = KEYS[5]
local id = ARGV[1]
local topic = ARGV[2]
local producer_group = ARGV[3]
local check_url = ARGV[4]
local window_ms = ARGV[5]
local first_check_ms = tonumber(ARGV[6])
local budget_ms = tonumber(ARGV[7])
local open_max = tonumber(ARGV[8])
local backlog_max = tonumber(ARGV[9])
local message_id = ARGV[10]
local message_type = ARGV[11]
local key = ARGV[12]
local sequence = ARGV[13]
local data = ARGV[14]
local properties = ARGV[15]
local attributes = ARGV[16]
local dedupe_id = ARGV[17]

local known = redis.call('HGET', half, id)
local open = redis.call('ZCARD', prepared)
redis.call('ZCARD', due)
local length, readers = redis.call('XLEN', stream), redis.call('HLEN', groups)
local is_full = length >= backlog_max and readers > 0
if known then return { 'prepared', mq_half_head(known).prepared_ms } end
if open >= open_max then return { 'many' } end
if is_full then return { 'full' } end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local prepared_ms = string.format('%.0f', now_ms)
local message = { id = message_id, type = message_type, key = key, sequence = sequence, data = data, properties = properties,
  attributes = attributes, dedupe_id = dedupe_id }
local head = { state = 'p', checks = 0, prepared_ms = prepared_ms, window_ms = window_ms, topic = topic,
  group = producer_group, url = check_url, message_id = message_id, entry = '-', duplicate = '0' }
redis.call('HSET', half, id, mq_half_head_text(head), id .. '/message', mq_half_message_text(message))
redis.call('ZADD', due, string.format('%.0f', now_ms + first_check_ms), id)
redis.call('ZADD', prepared, string.format('%.0f', now_ms + budget_ms), id)
return { 'prepared', prepared_ms }
