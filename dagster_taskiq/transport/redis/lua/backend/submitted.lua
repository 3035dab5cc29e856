-- Record tasks as WAITING, unless they are known.
-- KEYS  1 when to forget tasks (sorted set)  2.. record (hash) of each
-- ARGV  1 seconds to keep a record  2.. id, name, queue, run, step, attempt of each
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    local at = 2 + (i - 2) * 6
    redis.call('HSET', KEYS[i], 'state', 'WAITING', 'name', ARGV[at + 1], 'queue', ARGV[at + 2],
               'run_id', ARGV[at + 3], 'step_key', ARGV[at + 4], 'attempt', ARGV[at + 5],
               'submitted_at', now)
    redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[at])
  end
end
