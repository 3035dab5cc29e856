-- A function of the scripts that delete messages.

-- Delete one message, claimed or not, and the stream that is empty then. Returns how many there were.
local function remove(queue, level, id, task)
  local stream = stream_of(queue, level)
  redis.pcall('XACK', stream, 'workers', id)
  local removed = redis.call('XDEL', stream, id)
  -- A message that is still delayed is in no stream.
  removed = removed + redis.call('ZREM', delayed_of .. queue, id)
  redis.call('HDEL', delayed_messages, id)
  local place = redis.call('HGET', places, task)
  if place and cjson.decode(place)[3] == id then redis.call('HDEL', places, task) end
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream)
    redis.call('ZREM', levels_of .. queue, level)
  end
  return removed
end
