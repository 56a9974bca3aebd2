#!lua
-- Fragment: a timeline entry that is no message, with its event. Needs mq_append and im-state.

-- Appends a timeline entry that is no message, and its event. `tail` is the entry's JSON behind kind and seq, `extra` what the
-- event says beside it (",…"; nil: the conversation's view). The timeline comes first: it alone can refuse. Changes
-- state.head; the caller writes the hash.
local function im_append_entry(log, events, id, state, kind, event_id, event_type, tail, extra)
  redis.call('XLEN', events)
  local seq = state.head + 1
  local entry = '{"kind":"' .. kind .. '","seq":' .. seq .. ',' .. tail
  redis.call('XADD', log, seq .. '-' .. state.messages, kind, entry)
  state.head = seq
  mq_append(events, event_id, event_type, id, seq,
    '{"conversation":"' .. id .. '","entry":' .. entry .. (extra or ',"view":' .. im_view(id, state)) .. '}',
    im_properties(state))
  return seq
end
