-- Delete the records and results of tasks that have ended.
-- KEYS  1 when to forget tasks (sorted set)  2.. record (hash) and result (string) of each
-- ARGV  id of each
for i = 2, #KEYS, 2 do
  local state = redis.call('HGET', KEYS[i], 'state')
  if state ~= 'WAITING' and state ~= 'STARTED' then
    redis.call('DEL', KEYS[i], KEYS[i + 1])
    redis.call('ZREM', KEYS[1], ARGV[i / 2])
  end
end
