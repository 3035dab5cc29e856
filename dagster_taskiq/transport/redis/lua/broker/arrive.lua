-- What the scripts that add messages share: `put` adds new ones, `claim` those whose delay is over.

-- Return the milliseconds of the server's clock.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the next id. It tells the order of arrival, also between streams; Redis's own ids count
-- anew in each stream within a millisecond. The clock holds the last id that was given.
local function next_id(prefix)
  local ms, n = now_ms(), 0
  local last_ms, last_n = string.match(redis.call('GET', prefix .. ':clock') or '', '(%d+)%-(%d+)')
  if last_ms and tonumber(last_ms) >= ms then ms, n = tonumber(last_ms), tonumber(last_n) + 1 end
  local id = string.format('%.0f-%.0f', ms, n)
  redis.call('SET', prefix .. ':clock', id)
  return id
end

-- Note where the message of a task is.
local function note_place(prefix, queue, level, task, id)
  redis.call('SADD', prefix .. ':queues', queue)
  redis.call('HSET', prefix .. ':places', task, cjson.encode({queue, level, id}))
end

-- Ring the bell of a queue: each ring wakes one listener, who waits for it or comes next. What piles
-- up while nobody waits is cleared away by those who claim.
local function ring(prefix, queue)
  local rings = prefix .. ':rings:' .. queue
  redis.call('RPUSH', rings, '')
  redis.call('LTRIM', rings, 0, 999)
end

-- Add one message to the stream of its queue and priority level, and ring the queue's bell.
local function arrive(prefix, queue, level, task, body)
  local stream = prefix .. ':queue:' .. queue .. ':' .. level
  local id = next_id(prefix)
  local added = redis.pcall('XADD', stream, id, 'task', task, 'body', body)
  if type(added) == 'table' and added.err then
    -- The clock was lost, and the machine's was set back.
    id = redis.call('XADD', stream, '*', 'task', task, 'body', body)
    redis.call('SET', prefix .. ':clock', id)
  end
  if redis.call('XLEN', stream) == 1 then
    -- A new stream: its group starts before this message, so that no message is ever skipped.
    redis.pcall('XGROUP', 'CREATE', stream, 'workers', '0')
  end
  redis.call('ZADD', prefix .. ':levels:' .. queue, level, level)
  note_place(prefix, queue, level, task, id)
  ring(prefix, queue)
end

-- Keep one message for so many milliseconds, beside the streams.
local function delay(prefix, queue, level, task, body, ms)
  local id = next_id(prefix)
  redis.call('ZADD', prefix .. ':delayed:' .. queue, now_ms() + ms, id)
  redis.call('HSET', prefix .. ':delayed', id, cmsgpack.pack({level, task, body}))
  note_place(prefix, queue, level, task, id)
end

-- Have the messages of a queue arrive whose delay is over: as many as one call should move.
local function arrive_due(prefix, queue)
  local waiting = prefix .. ':delayed:' .. queue
  local kept = prefix .. ':delayed'
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now_ms(), 'LIMIT', 0, 1000)) do
    local message = redis.call('HGET', kept, id)
    -- This first: a server that is full, or takes no writes, refuses the first one of a script only.
    redis.call('ZREM', waiting, id)
    if message then
      local level, task, body = unpack(cmsgpack.unpack(message))
      arrive(prefix, queue, level, task, body)
      redis.call('HDEL', kept, id)
    end
  end
end
