-- Delete the records and results of tasks whose time to be forgotten has come, the first ones first.
-- KEYS  1 when to forget tasks (sorted set)
--       2, 3 how the names of the keys of records and of results begin
-- ARGV  1 how many tasks at most
-- Returns how many tasks have been deleted.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1], 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  redis.call('DEL', KEYS[2] .. id, KEYS[3] .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #due
