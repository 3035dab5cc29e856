-- Delete the records and results of tasks whose time to be forgotten has come, the first ones first,
-- and the records of workers that have been silent for long.
-- KEYS  1 when to forget tasks (sorted set)
--       2, 3 how the names of the keys of records and of results begin
--       4 workers (sorted set, by time)  5 their records (hash)
-- ARGV  1 how many tasks at most  2 seconds to keep a silent worker
-- Returns how many tasks have been deleted.
local now = redis.call('TIME')[1]
for _, silent in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - ARGV[2])) do
  redis.call('ZREM', KEYS[4], silent)
  redis.call('HDEL', KEYS[5], silent)
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  redis.call('DEL', KEYS[2] .. id, KEYS[3] .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #due
