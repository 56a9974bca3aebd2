#!lua
-- Fragment: count one more holder that was silent until its lease ended, in what is remembered of a delivery.
--
-- `record` has failed, losses, first (ms of the first failure, '0' for none) and history (JSON [[ms, member, error], ...]). An
-- outside service (#pull) has no other way to fail than to be silent, so of it a loss is a failed attempt too, with its note in
-- the history; of a member it is not, for it may be the process's fault. And a member that vanishes loses all that it holds: from the
-- third loss on only those count that had it alone in hand, which the record says by an odd number of losses beyond three.
local MQ_LOST = 'the lease ran out without an answer'
-- A group that never gives up would let the history grow for ever.
local MQ_LOSSES_NOTED = 16

local MQ_LOSSES_MAX = 3

local function mq_count_loss(record, holder, now_ms)
  local beyond = record.losses - MQ_LOSSES_MAX
  if holder ~= '#pull' and beyond >= 0 and beyond % 2 == 0 then return end
  record.losses = record.losses + 1
  if holder ~= '#pull' then return end
  record.failed = record.failed + 1
  if record.first == '0' then record.first = string.format('%.0f', now_ms) end
  local note = string.format('[%.0f,"#pull","%s"]', now_ms, MQ_LOST)
  if record.history == '' or record.history == '[]' then
    record.history = '[' .. note .. ']'
  elseif record.losses <= MQ_LOSSES_NOTED then
    record.history = string.sub(record.history, 1, -2) .. ',' .. note .. ']'
  end
end
