-- Record the end of a task, if this worker's start of it still stands, and tell the run's loop.
-- KEYS  1 task (hash)  2 when to forget each task (sorted set)  3 mail of the run (stream), or ''
--       4 result (string), or ''
-- ARGV  1 id  2 worker  3 state  4 error  5 seconds to keep  6 mail  7 seconds to keep mail
--       8 its length  9 result
local known = redis.call('HMGET', KEYS[1], 'state', 'worker')
if known[1] ~= 'STARTED' or known[2] ~= ARGV[2] then return 0 end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'error', ARGV[4], 'finished_at', now)
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[1])
if KEYS[4] ~= '' then redis.call('SET', KEYS[4], ARGV[9]) end
if KEYS[3] ~= '' then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'body', ARGV[6])
  redis.call('EXPIRE', KEYS[3], ARGV[7])
end
return 1
