-- Delete what is known of tasks that have ended.
-- KEYS  task (hash) and result (string) of each
for i = 1, #KEYS, 2 do
  local state = redis.call('HGET', KEYS[i], 'state')
  if state ~= 'WAITING' and state ~= 'STARTED' then redis.call('DEL', KEYS[i], KEYS[i + 1]) end
end
