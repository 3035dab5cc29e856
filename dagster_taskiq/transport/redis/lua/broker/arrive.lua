-- Functions of the scripts that add messages to streams, or wake listeners.

-- Return the milliseconds of the server's clock.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the next message id. Ids tell the order of arrival across all streams; Redis's own ids
-- begin anew in each stream within a millisecond. The clock holds the last id.
local function next_id()
  local ms, n = now_ms(), 0
  local last_ms, last_n = string.match(redis.call('GET', clock) or '', '(%d+)%-(%d+)')
  if last_ms and tonumber(last_ms) >= ms then ms, n = tonumber(last_ms), tonumber(last_n) + 1 end
  local id = string.format('%.0f-%.0f', ms, n)
  redis.call('SET', clock, id)
  return id
end

-- Record where the message of a task is.
local function note_place(queue, level, task, id)
  redis.call('SADD', queues, queue)
  redis.call('HSET', places, task, cjson.encode({queue, level, id}))
end

-- Wake one listener of a queue: the first that waits, or the next that comes. Wake-ups that no
-- listener waits for are removed by the next claim.
local function wake(queue)
  local wakeups = wakeups_of .. queue
  redis.call('RPUSH', wakeups, '')
  redis.call('LTRIM', wakeups, 0, 999)
end

-- Add one message to the stream of its queue and priority level, and wake a listener. That of a
-- user's own task has an attempt and the name of the task, by which it may be started as it is
-- claimed.
local function arrive(queue, level, task, body, attempt, name)
  local stream = stream_of(queue, level)
  local id = next_id()
  local fields = {'task', task, 'body', body}
  if attempt and attempt ~= '' then
    fields = {'task', task, 'body', body, 'own', attempt, 'name', name}
  end
  local added = redis.pcall('XADD', stream, id, unpack(fields))
  if type(added) == 'table' and added.err then
    -- The clock was lost, and the time of the machine was set back.
    id = redis.call('XADD', stream, '*', unpack(fields))
    redis.call('SET', clock, id)
  end
  if redis.call('XLEN', stream) == 1 then
    -- A new stream: its group begins before this message, so that no message is ever skipped.
    redis.pcall('XGROUP', 'CREATE', stream, 'workers', '0')
  end
  redis.call('ZADD', levels_of .. queue, level, level)
  note_place(queue, level, task, id)
  wake(queue)
end

-- Keep one message outside the streams for some milliseconds.
local function delay(queue, level, task, body, attempt, name, ms)
  local id = next_id()
  redis.call('ZADD', delayed_of .. queue, now_ms() + ms, id)
  redis.call('HSET', delayed_messages, id, cmsgpack.pack({level, task, body, attempt, name}))
  note_place(queue, level, task, id)
end

-- Add the messages of a queue whose delay is over to their streams: at most a thousand in one call.
local function arrive_due(queue)
  local waiting = delayed_of .. queue
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now_ms(), 'LIMIT', 0, 1000)) do
    local message = redis.call('HGET', delayed_messages, id)
    -- This first: a server that is full, or takes no writes, refuses only the first of a script.
    redis.call('ZREM', waiting, id)
    if message then
      local level, task, body, attempt, name = unpack(cmsgpack.unpack(message))
      arrive(queue, level, task, body, attempt, name)
      redis.call('HDEL', delayed_messages, id)
    end
  end
end
