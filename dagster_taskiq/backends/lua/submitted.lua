-- Record tasks as WAITING, unless they are known.
-- KEYS  one task (hash) each    ARGV  1 seconds to keep  2.. name, queue, run, step of each
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 0 then
    local at = 2 + (i - 1) * 4
    redis.call('HSET', key, 'state', 'WAITING', 'name', ARGV[at], 'queue', ARGV[at + 1],
               'run_id', ARGV[at + 2], 'step_key', ARGV[at + 3], 'submitted_at', now)
    redis.call('EXPIRE', key, ARGV[1])
  end
end
