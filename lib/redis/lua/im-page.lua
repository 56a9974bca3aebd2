#!lua flags=no-writes
-- A page of the hot window, each entry with what is folded about it.
--
-- Read-only, one partition's hash tag; in one script, for an entry and its folded state leave the window together.
-- Returns per entry, in the order asked: its id, its kind, its record, its content part or '', its reactions part or ''.
local log = KEYS[1]
local folds = KEYS[2]
local low = ARGV[1]
local high = ARGV[2]
local count = ARGV[3]
local newest = ARGV[4]

local rows
if newest == '1' then
  rows = redis.call('XREVRANGE', log, high, low, 'COUNT', count)
else
  rows = redis.call('XRANGE', log, low, high, 'COUNT', count)
end
local has_folds = #rows > 0 and redis.call('HLEN', folds) > 0
local page = {}
for _, row in ipairs(rows) do
  local id, kind, record = row[1], row[2][1], row[2][2]
  local content, reactions = '', ''
  if has_folds and kind == 'm' then
    local seq = string.match(id, '^%d+')
    local parts = redis.call('HMGET', folds, seq .. 'c', seq .. 'r')
    content, reactions = parts[1] or '', parts[2] or ''
  end
  local at = #page
  page[at + 1], page[at + 2], page[at + 3], page[at + 4], page[at + 5] = id, kind, record, content, reactions
end
return page
