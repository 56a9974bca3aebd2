#!lua
-- Rewrite what a conversation in Redis says of a user who is erased: entries of the hot window, folded parts, the creator's name.
--
-- One partition's hash tag, one commit. The window is written anew under the same ids: what came to it since the caller looked stays
-- as it is. His messages become recalled ones: their content part says so, their reactions go. Other parts are only changed
-- when they still are what the caller saw. Again changes nothing more.
-- Returns {entries rewritten, parts rewritten}.
local conv = KEYS[1]
local log = KEYS[2]
local folds = KEYS[3]
local delivered = KEYS[4]
local user = ARGV[1]
local pseudonym = ARGV[2]
local mark = ARGV[3]
local row_count = tonumber(ARGV[4])
local own_count = tonumber(ARGV[5])
-- mark: a content part behind the seq it is as of. Then a key per message of his, the users who reacted to it. As arguments: id and
-- new record of each row; the seqs of his messages; and field, old and new value of each part.

local KEYS_NAMED, at = 4, 6
local creator = redis.call('HGET', conv, 'creator')
redis.call('HLEN', folds)
redis.call('HLEN', delivered)
for i = 1, own_count do redis.call('HLEN', KEYS[KEYS_NAMED + i]) end

local records, rewritten = {}, 0
for i = 1, row_count do
  records[ARGV[at]] = ARGV[at + 1]
  at = at + 2
end
if row_count > 0 then
  local rows = redis.call('XRANGE', log, '-', '+')
  redis.call('DEL', log)
  for _, row in ipairs(rows) do
    local record = records[row[1]]
    if record then rewritten = rewritten + 1 end
    redis.call('XADD', log, row[1], row[2][1], record or row[2][2])
  end
end
for i = 1, own_count do
  local content = ARGV[at] .. 'c'
  local as_of = string.match(redis.call('HGET', folds, content) or '', '^%d+') or ARGV[at]
  redis.call('HSET', folds, content, as_of .. mark)
  redis.call('HDEL', folds, ARGV[at] .. 'r')
  redis.call('DEL', KEYS[KEYS_NAMED + i])
  at = at + 1
end
local parts = own_count
for i = at, #ARGV, 3 do
  if redis.call('HGET', folds, ARGV[i]) == ARGV[i + 1] then
    redis.call('HSET', folds, ARGV[i], ARGV[i + 2])
    parts = parts + 1
  end
end
redis.call('HDEL', delivered, user)
-- What it was created with names its creator: who repeats the creation finds other content.
if creator == user then redis.call('HSET', conv, 'creator', pseudonym, 'digest', 'erased') end
return { rewritten, parts }
