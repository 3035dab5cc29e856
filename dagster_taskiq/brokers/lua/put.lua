-- Add one message to the stream of its queue and priority level, and ring the queue's bell.
-- KEYS  1 queues (set)  2 levels of the queue (sorted set)  3 stream  4 places (hash)  5 bell
--       6 clock
-- ARGV  1 queue  2 level  3 task id  4 body

-- The id tells the order of arrival, also between streams; Redis's own ids count anew in each
-- stream within a millisecond. The clock holds the last id that was given.
local time = redis.call('TIME')
local ms, n = time[1] * 1000 + math.floor(time[2] / 1000), 0
local last_ms, last_n = string.match(redis.call('GET', KEYS[6]) or '', '(%d+)%-(%d+)')
if last_ms and tonumber(last_ms) >= ms then ms, n = tonumber(last_ms), tonumber(last_n) + 1 end
local id = string.format('%.0f-%.0f', ms, n)
local added = redis.pcall('XADD', KEYS[3], id, 'task', ARGV[3], 'body', ARGV[4])
if type(added) == 'table' and added.err then
  -- The clock was lost, and the machine's was set back.
  id = redis.call('XADD', KEYS[3], '*', 'task', ARGV[3], 'body', ARGV[4])
end
redis.call('SET', KEYS[6], id)
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
