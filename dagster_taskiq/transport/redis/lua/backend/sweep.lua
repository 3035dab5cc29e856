-- Delete what is known of tasks whose time to be forgotten has come, the first of them first.
-- KEYS  1 when to forget each task (sorted set)  ARGV  1 prefix  2 how many at the most
-- Returns how many it has deleted.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(due) do
  redis.call('DEL', ARGV[1] .. ':task:' .. id, ARGV[1] .. ':result:' .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #due
