-- Cancel one task: it becomes REVOKED if it has not started, else it is marked for its worker.
-- KEYS  1 record of the task (hash)  2 when to forget tasks (sorted set)
-- ARGV  1 id  2 reason  3 seconds to keep the record
-- Returns {state before, worker, run, step}.
local state, worker, run, step =
  unpack(redis.call('HMGET', KEYS[1], 'state', 'worker', 'run_id', 'step_key'))
if not state or state == 'WAITING' then
  local now = redis.call('TIME')
  now = now[1] .. '.' .. string.format('%06d', now[2])
  if not state then redis.call('HSET', KEYS[1], 'submitted_at', now) end
  redis.call('HSET', KEYS[1], 'state', 'REVOKED', 'error', ARGV[2], 'finished_at', now)
  redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
elseif state == 'STARTED' then
  redis.call('HSET', KEYS[1], 'revoke_requested', '1', 'error', ARGV[2])
end
return {state or 'WAITING', worker or '', run or '', step or ''}
