-- Add one message to the stream of its queue and priority level, and ring the queue's bell.
-- KEYS  1 queues (set)  2 levels of the queue (sorted set)  3 stream  4 places (hash)  5 bell
-- ARGV  1 queue  2 level  3 task id  4 body
local id = redis.call('XADD', KEYS[3], '*', 'task', ARGV[3], 'body', ARGV[4])
if redis.call('XLEN', KEYS[3]) == 1 then
  -- A new stream: its group starts before this message, so that no message is ever skipped.
  redis.pcall('XGROUP', 'CREATE', KEYS[3], 'workers', '0')
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[2])
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[4], ARGV[3], cjson.encode({ARGV[1], ARGV[2], id}))
-- The bell holds one entry: its id moves on with each message, which is all a listener looks at.
redis.call('XADD', KEYS[5], 'MAXLEN', 1, '*', 'level', ARGV[2])
return id
