#!lua
-- Keep messages of one partition of a topic until they are due, each at most once per dedupe id within the window.
--
-- Atomic; all keys are of one partition. What is due already is appended at once, within the topic's backlog; what waits, within
-- the number that may wait in the partition. Again under the same ids changes nothing.
-- ARGV behind the named ones, per message: due ms, condition JSON or '', header, data, dedupe id ('' for none).
-- Returns per message {'appended', entry id}, {'waits', due ms}, {'duplicate', id, entry id, or @ and due ms}, or {'full'}.
local stream = KEYS[1]
local even = KEYS[2]
local odd = KEYS[3]
local groups = KEYS[4]
local records = KEYS[5]
local due = KEYS[6]
local ended = KEYS[7]
local relay = KEYS[8]
local topic = ARGV[1]
local window_ms = tonumber(ARGV[2])
local backlog_max = tonumber(ARGV[3])
local pending_max = tonumber(ARGV[4])

local backlog_room = backlog_max - redis.call('XLEN', stream)
if redis.call('HLEN', groups) == 0 then backlog_room = math.huge end
local shelf = { records = records, due = due, ended = ended, relay = relay }
local waiting_room = mq_delay_check(shelf, pending_max)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local seen = mq_dedupe_open(even, odd, window_ms, now_ms)

local replies = {}
for i = 5, #ARGV, 5 do
  local due_ms, condition, header, dedupe_id = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 4]
  local original = mq_dedupe_find(seen, dedupe_id)
  local reply
  if original then
    reply = { 'duplicate', original[1], original[2] }
  elseif waiting_room <= 0 or (due_ms <= now_ms and backlog_room <= 0) then
    reply = { 'full' }
  else
    local entry, waits_until = mq_delay(shelf, stream, now_ms, due_ms, condition, topic, header, ARGV[i + 3])
    local until_text = string.format('%.0f', waits_until)
    if entry then
      backlog_room = backlog_room - 1
      reply = { 'appended', entry }
    else
      waiting_room = waiting_room - 1
      reply = { 'waits', until_text }
    end
    local id = string.match(header, '^@%S+ (%S+)') or string.match(header, '^%S+')
    mq_dedupe_put(seen, dedupe_id, id, entry or '@' .. until_text)
  end
  replies[#replies + 1] = reply
end
return replies
