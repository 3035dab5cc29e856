-- Count the messages of all queues.
-- ARGV  1 milliseconds after which a claim does not count any more
-- Returns {queue, messages, claimed, arrival of the oldest in milliseconds, levels} for each queue; the
-- levels are those of messages that wait and are not delayed, each with how many there are.
local stale = tonumber(ARGV[1])
local found = {}
for _, queue in ipairs(redis.call('SMEMBERS', queues)) do
  local messages, claimed, oldest = redis.call('ZCARD', delayed_of .. queue), 0, ''
  local levels = {}
  for _, level in ipairs(redis.call('ZRANGE', levels_of .. queue, 0, -1)) do
    local stream = stream_of(queue, level)
    local waiting = redis.call('XLEN', stream)
    messages = messages + waiting
    local pending = redis.pcall('XPENDING', stream, 'workers')
    if not pending.err and pending[1] > 0 then
      -- A message that was given back, or not started within the lease, waits again.
      local free = stale_claims(stream, stale, pending[1])
      claimed = claimed + pending[1] - #free
      waiting = waiting - pending[1] + #free
    end
    if waiting > 0 then
      levels[#levels + 1] = level
      levels[#levels + 1] = waiting
    end
    local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
    if head[1] then
      local ms = string.match(head[1][1], '(%d+)%-')
      if oldest == '' or tonumber(ms) < tonumber(oldest) then oldest = ms end
    end
  end
  if messages > 0 then found[#found + 1] = {queue, messages, claimed, oldest, levels} end
end
return found
