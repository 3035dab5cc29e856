-- Record the end of a task, if this worker's start of it still stands, and tell the run's loop.
-- KEYS  1 task (hash)  2 mail of the run (stream), or ''  3 result (string), or ''
-- ARGV  1 worker  2 state  3 error  4 seconds to keep  5 mail  6 seconds to keep mail  7 its length
--       8 result
local known = redis.call('HMGET', KEYS[1], 'state', 'worker')
if known[1] ~= 'STARTED' or known[2] ~= ARGV[1] then return 0 end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'error', ARGV[3], 'finished_at', now)
redis.call('EXPIRE', KEYS[1], ARGV[4])
if KEYS[3] ~= '' then redis.call('SET', KEYS[3], ARGV[8], 'EX', ARGV[4]) end
if KEYS[2] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], '*', 'body', ARGV[5])
  redis.call('EXPIRE', KEYS[2], ARGV[6])
end
return 1
