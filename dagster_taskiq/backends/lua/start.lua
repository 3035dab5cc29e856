-- Make a task STARTED by one worker, if it is WAITING or unknown.
-- KEYS  1 task (hash)    ARGV  1 seconds to keep  2 worker  3 name  4 queue  5 run  6 step
--                        7 a name of this try: asked again under the same one, it has started it
-- Returns the state that forbids it, or nothing.
local state, try = unpack(redis.call('HMGET', KEYS[1], 'state', 'try'))
if state == 'STARTED' and try == ARGV[7] then return false end
if state and state ~= 'WAITING' then return state end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
if not state then
  redis.call('HSET', KEYS[1], 'name', ARGV[3], 'queue', ARGV[4], 'run_id', ARGV[5],
             'step_key', ARGV[6], 'submitted_at', now)
end
redis.call('HSET', KEYS[1], 'state', 'STARTED', 'worker', ARGV[2], 'started_at', now,
           'try', ARGV[7])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return false
