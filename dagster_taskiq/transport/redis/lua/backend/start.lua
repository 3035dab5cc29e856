-- Make one attempt of a task STARTED by one worker, if it is WAITING or unknown.
-- KEYS  1 record of the task (hash)  2 when to forget tasks (sorted set)
-- ARGV  1 id  2 seconds to keep the record  3 worker  4 name  5 queue  6 run  7 step
--       8 name of this call: a caller whose answer was lost asks again with the same name
--       9 '1' to start the task only if it is known  10 attempt of the message
-- Returns nothing, or why it did not start: its state, 'UNKNOWN', or 'NOT PUT BACK' if an earlier
-- attempt is STARTED.
local state, try, attempt = unpack(redis.call('HMGET', KEYS[1], 'state', 'try', 'attempt'))
if state == 'STARTED' and try == ARGV[8] then return false end
if not state and ARGV[9] == '1' then return 'UNKNOWN' end
local later = tonumber(ARGV[10]) - tonumber(attempt or 0)
if state == 'STARTED' and later > 0 then return 'NOT PUT BACK' end
if state and state ~= 'WAITING' then return state end
if state and later < 0 then return 'STARTED' end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
if not state then
  redis.call('HSET', KEYS[1], 'name', ARGV[4], 'queue', ARGV[5], 'run_id', ARGV[6],
             'step_key', ARGV[7], 'submitted_at', now)
end
redis.call('HSET', KEYS[1], 'state', 'STARTED', 'worker', ARGV[3], 'started_at', now,
           'try', ARGV[8], 'attempt', ARGV[10])
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return false
