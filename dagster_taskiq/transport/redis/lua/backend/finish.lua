-- Record the end of a task that a worker has started, and notify the run's loop.
-- KEYS  1 record of the task (hash)  2 when to forget tasks (sorted set)
--       3 notifications of the run (stream)  4 result (string), if there is one
-- ARGV  1 id  2 worker  3 state  4 error  5 seconds to keep the record
--       6 notification, or '' for none  7 seconds to keep notifications  8 how many to keep
--       9 result  10 attempt
-- Returns 1, or 0 if the task is not STARTED by that worker, or is at a later attempt; nothing
-- changes then.
local state, worker, attempt = unpack(redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt'))
if state ~= 'STARTED' or worker ~= ARGV[2] then return 0 end
if tonumber(attempt or 0) > tonumber(ARGV[10]) then return 0 end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'error', ARGV[4], 'finished_at', now)
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[1])
if KEYS[4] then redis.call('SET', KEYS[4], ARGV[9]) end
if ARGV[6] ~= '' then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'body', ARGV[6])
  redis.call('EXPIRE', KEYS[3], ARGV[7])
end
return 1
