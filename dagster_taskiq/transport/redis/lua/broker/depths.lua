-- Count what waits. Returns {queue, messages, claimed, milliseconds of the oldest} for each queue.
-- ARGV  1 prefix  2 milliseconds after which a claim counts for nothing
local prefix, stale = ARGV[1], ARGV[2]
local found = {}
for _, queue in ipairs(redis.call('SMEMBERS', prefix .. ':queues')) do
  local messages, claimed, oldest = redis.call('ZCARD', prefix .. ':delayed:' .. queue), 0, ''
  for _, level in ipairs(redis.call('ZRANGE', prefix .. ':levels:' .. queue, 0, -1)) do
    local stream = prefix .. ':queue:' .. queue .. ':' .. level
    messages = messages + redis.call('XLEN', stream)
    local pending = redis.pcall('XPENDING', stream, 'workers')
    if not pending.err and pending[1] > 0 then
      -- Given back, or never started by whoever claimed it: it waits again.
      local free = redis.call('XPENDING', stream, 'workers', 'IDLE', stale, '-', '+', pending[1])
      claimed = claimed + pending[1] - #free
    end
    local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
    if head[1] then
      local ms = string.match(head[1][1], '(%d+)%-')
      if oldest == '' or tonumber(ms) < tonumber(oldest) then oldest = ms end
    end
  end
  if messages > 0 then found[#found + 1] = {queue, messages, claimed, oldest} end
end
return found
