-- Cancel one task: REVOKED if nobody started it, else marked for its worker to stop it.
-- KEYS  1 task (hash)  2 when to forget each task (sorted set)
-- ARGV  1 id  2 reason  3 seconds to keep
-- Returns {state before, worker, run, step}.
local known = redis.call('HMGET', KEYS[1], 'state', 'worker', 'run_id', 'step_key')
local state = known[1] or 'WAITING'
if state == 'WAITING' then
  local now = redis.call('TIME')
  now = now[1] .. '.' .. string.format('%06d', now[2])
  redis.call('HSET', KEYS[1], 'state', 'REVOKED', 'error', ARGV[2], 'finished_at', now)
  redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
elseif state == 'STARTED' then
  redis.call('HSET', KEYS[1], 'revoke_requested', '1', 'error', ARGV[2])
end
return {state, known[2] or '', known[3] or '', known[4] or ''}
