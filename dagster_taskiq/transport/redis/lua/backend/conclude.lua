-- Record the end of a user's own task that no worker has started.
-- KEYS  1 record of the task (hash)  2 when to forget tasks (sorted set)
--       3 result (string), if there is one
-- ARGV  1 id  2 state  3 error  4 seconds to keep the record  5 result  6 name  7 queue  8 attempt
-- Returns 1, or 0 if the task was started, has ended, or belongs to a run; nothing changes then.
local state, run = unpack(redis.call('HMGET', KEYS[1], 'state', 'run_id'))
if state and (state ~= 'WAITING' or (run and run ~= '')) then return 0 end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
if not state then
  redis.call('HSET', KEYS[1], 'name', ARGV[6], 'queue', ARGV[7], 'attempt', ARGV[8],
             'submitted_at', now)
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'error', ARGV[3], 'finished_at', now)
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[5]) end
return 1
