-- Moves one message out of Celery's keys into a hash of our own, so that it is always in one of them.
--
-- KEYS[1]  the list of a queue; or the hash of messages that workers have taken
-- KEYS[2]  our hash
-- KEYS[3]  the index of taken messages
-- ARGV[1]  'list' or 'taken', by what KEYS[1] is
-- ARGV[2]  the entry of the list; or the field of the hash
-- ARGV[3]  the id of the message's task, the field of our hash
-- ARGV[4]  what is written there
local there
if ARGV[1] == 'list' then
  there = redis.call('LREM', KEYS[1], -1, ARGV[2])
else
  there = redis.call('HDEL', KEYS[1], ARGV[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
end
if there == 0 then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
