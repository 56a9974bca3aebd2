#!lua flags=allow-oom
-- Take the lease of one partition for a member of an ordered group, with a higher fencing token than anyone had before.
--
-- Atomic; all keys are of one partition. Refused while another member's lease runs. A member takes its own lease again at
-- once when its session is not older: that is its restart, and the session it replaces is fenced.
-- The token is at least Redis' time in µs, so that it goes on rising when the hash was lost. A holder that vanished counts as a
-- loss against the first unfinished entries, unless there was none; and as blame against the entry that it had in hand alone.
-- Returns {'granted', token, checkpoint, read, open, losses, suspect, blame, previous owner when its lease ran out or '', the stream's
-- last entry}, {'held', owner, ms left}, or {'unregistered'}.
local lease = KEYS[1]
local groups = KEYS[2]
local stream = KEYS[3]
local group = ARGV[1]
local member = ARGV[2]
local session = ARGV[3]
local lease_ms = tonumber(ARGV[4])

local owner, held_session, token, until_ms, checkpoint, read, open, losses, suspect, blame, alone = unpack(redis.call('HMGET',
  lease, 'owner', 'session', 'token', 'until', 'checkpoint', 'read', 'open', 'losses', 'suspect', 'blame', 'alone'))
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if not redis.call('HGET', groups, group) or not checkpoint then return { 'unregistered' } end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local is_owned = owner and owner ~= ''
local is_own = is_owned and owner == member and session >= (held_session or '')
if is_owned and not is_own and tonumber(until_ms) > now_ms then
  return { 'held', owner, tonumber(until_ms) - now_ms }
end

token = string.format('%.0f', math.max(tonumber(token or 0) + 1, time[1] * 1000000 + time[2]))
local is_idle = (open or '') == '' and (not last or last[1] == checkpoint)
losses = is_owned and not is_idle and tonumber(losses or 0) + 1 or 0
blame = tonumber(blame or 0)
if is_owned and alone == '1' then blame = blame + 1 end
redis.call('HSET', lease, 'owner', member, 'session', session, 'token', token,
  'until', string.format('%.0f', now_ms + lease_ms), 'losses', losses, 'blame', blame, 'alone', 0, 'commit', 0)
local previous = (is_owned and not is_own) and owner or ''
return { 'granted', token, checkpoint, read or '0', open or '', losses, suspect or '', blame, previous,
  last and last[1] or '0-0' }
