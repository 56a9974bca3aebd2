#!lua
-- Fragment: where a group begins in a partition.
--
-- `start`: 'first', 'latest', or the entry id behind which it begins; `read` counts the entries ever added up to that id.
-- Returns the checkpoint and its `read`. Fails only when `stream` holds another type.
local function mq_place(stream, start, read)
  redis.call('XLEN', stream)
  if start ~= 'first' and start ~= 'latest' then return start, read end
  if redis.call('EXISTS', stream) == 0 then return '0-0', '0' end
  local reply = redis.call('XINFO', 'STREAM', stream)
  local of = {}
  for i = 1, #reply, 2 do of[reply[i]] = reply[i + 1] end
  if start == 'latest' then return of['last-generated-id'], string.format('%.0f', of['entries-added']) end
  return '0-0', string.format('%.0f', of['entries-added'] - of['length'])
end
