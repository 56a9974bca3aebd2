#!lua flags=allow-oom
-- Make a group known in one partition of a topic: trimming waits for it from now on, and it has a place to begin.
--
-- Atomic; all keys are of one partition. Again has no effect, except that what was lost (FLUSHALL, XGROUP DESTROY) is made
-- anew, from the stored checkpoint when there is one. `start` is first, latest, or the entry id behind which it begins.
-- Returns '' when registered, or the mode under which the group exists already when it is another.
local groups = KEYS[1]
local lease = KEYS[2]
local stream = KEYS[3]
local group = ARGV[1]
local mode = ARGV[2]
local start = ARGV[3]

local declared = redis.call('HGET', groups, group)
local checkpoint, read = unpack(redis.call('HMGET', lease, 'checkpoint', 'read'))
redis.call('XLEN', stream)
if declared then
  local declared_mode = string.match(declared, '^%a+')
  if declared_mode ~= mode then return declared_mode end
end

local is_new = not checkpoint
if is_new then
  checkpoint, read = '0-0', 0
  if redis.call('EXISTS', stream) == 1 then
    local reply = redis.call('XINFO', 'STREAM', stream)
    local of = {}
    for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
    read = of['entries-added'] - of['length']
    if start == 'latest' then checkpoint, read = of['last-generated-id'], of['entries-added'] end
  end
  if start ~= 'first' and start ~= 'latest' then checkpoint = start end
end

if mode == 'concurrent' then
  local created = redis.pcall('XGROUP', 'CREATE', stream, group, checkpoint, 'MKSTREAM', 'ENTRIESREAD', read)
  if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then return created end
end
if is_new then redis.call('HSET', lease, 'checkpoint', checkpoint, 'floor', checkpoint, 'read', read) end
if not declared then redis.call('HSET', groups, group, mode .. ' ' .. redis.call('TIME')[1] .. '000') end
return ''
