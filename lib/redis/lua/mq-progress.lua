#!lua
-- Fragment: what the stored progress of an ordered group says of an entry.

-- Tells of an entry whether a progress holds it as finished.
local function mq_progress(checkpoint, open)
  local is_open = {}
  for entry in string.gmatch(open, '%S+') do is_open[entry] = true end
  local last_ms, last_count = string.match(checkpoint, '^(%d+)-(%d+)$')
  last_ms, last_count = tonumber(last_ms), tonumber(last_count)
  return function(entry)
    local ms, count = string.match(entry, '^(%d+)-(%d+)$')
    ms, count = tonumber(ms), tonumber(count)
    return (ms < last_ms or (ms == last_ms and count <= last_count)) and not is_open[entry]
  end
end
