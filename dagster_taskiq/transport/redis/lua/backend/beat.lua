-- Record a worker's sign of life, and tell it which of its running tasks must stop.
-- KEYS  1 workers (sorted set, by time)  2 bodies (hash)  3 when to forget each task (sorted set)
--       4.. one task (hash) each
-- ARGV  1 worker  2 body  3 seconds to keep a task  4 seconds to keep a silent worker
--       5.. id, name, run, step of each running task
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, tonumber(now) - tonumber(ARGV[4]))) do
  redis.call('ZREM', KEYS[1], old)
  redis.call('HDEL', KEYS[2], old)
end
local stop = {}
for i = 4, #KEYS do
  local at = 5 + (i - 4) * 4
  local known = redis.call('HMGET', KEYS[i], 'state', 'worker', 'revoke_requested')
  if not known[1] or known[1] == 'WAITING' then
    -- The server lost its data, and the task may have been sent again since. The worker has it.
    redis.call('HSET', KEYS[i], 'state', 'STARTED', 'worker', ARGV[1], 'name', ARGV[at + 1],
               'run_id', ARGV[at + 2], 'step_key', ARGV[at + 3], 'started_at', now)
    redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[at])
  elseif known[1] ~= 'STARTED' or known[2] ~= ARGV[1] or known[3] == '1' then
    stop[#stop + 1] = ARGV[at]
  else
    redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[at])
  end
end
return stop
