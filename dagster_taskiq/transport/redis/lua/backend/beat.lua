-- Record the heartbeat of a worker, and return which of the tasks that it runs it has to stop.
-- KEYS  1 workers (sorted set, by time)  2 their records (hash)  3 when to forget tasks (sorted set)
--       4.. record (hash) of each running task
-- ARGV  1 worker  2 its record  3 seconds to keep a task
--       4.. id, name, run, step, attempt of each running task
-- Returns the ids of tasks to stop.
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local stop = {}
for i = 4, #KEYS do
  local at = 4 + (i - 4) * 5
  local state, worker, revoke_requested, attempt =
    unpack(redis.call('HMGET', KEYS[i], 'state', 'worker', 'revoke_requested', 'attempt'))
  if not state then
    redis.call('HSET', KEYS[i], 'name', ARGV[at + 1], 'run_id', ARGV[at + 2],
               'step_key', ARGV[at + 3], 'submitted_at', now)
  end
  if tonumber(attempt or 0) > tonumber(ARGV[at + 4]) then
    -- The worker has put it back: nothing is left to stop.
  elseif (state == 'SUCCESS' or state == 'FAILURE') and worker == ARGV[1] then
    -- The worker has ended it, and its hooks may still run.
  elseif not state or state == 'WAITING' then
    -- The server has lost its data, and the task may have been sent again since.
    redis.call('HSET', KEYS[i], 'state', 'STARTED', 'worker', ARGV[1], 'started_at', now,
               'attempt', ARGV[at + 4])
    redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[at])
  elseif state ~= 'STARTED' or worker ~= ARGV[1] or revoke_requested == '1' then
    stop[#stop + 1] = ARGV[at]
  else
    redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[at])
  end
end
return stop
