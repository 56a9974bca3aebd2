#!lua flags=no-writes
-- What of a conversation in Redis may name a user: his place in it, and the entries and folded parts that hold his quoted id.
--
-- Read-only, one partition's hash tag. What holds the text is the caller's to judge: a body may hold it, too.
-- Returns {type, member value, creator, seq up to which he has it, rows, folds} ('' for what is not there): rows as id, kind,
-- record in turn, folds as field, value; of a window longer than `window_max` the rows are false.
local conv = KEYS[1]
local members = KEYS[2]
local log = KEYS[3]
local folds = KEYS[4]
local delivered = KEYS[5]
local user = ARGV[1]
local quoted = ARGV[2]
local window_max = tonumber(ARGV[3])

local known = redis.call('HMGET', conv, 'type', 'creator')
local member = redis.call('HGET', members, user)
local reached = redis.call('HGET', delivered, user)
local rows, parts = {}, {}
if redis.call('XLEN', log) > window_max then
  rows = false
else
  for _, row in ipairs(redis.call('XRANGE', log, '-', '+')) do
    if string.find(row[2][2], quoted, 1, true) then
      rows[#rows + 1] = row[1]
      rows[#rows + 1] = row[2][1]
      rows[#rows + 1] = row[2][2]
    end
  end
end
local all = redis.call('HGETALL', folds)
for i = 1, #all, 2 do
  if string.find(all[i + 1], quoted, 1, true) then
    parts[#parts + 1] = all[i]
    parts[#parts + 1] = all[i + 1]
  end
end
return { known[1] or '', member or '', known[2] or '', reached or '', rows, parts }
