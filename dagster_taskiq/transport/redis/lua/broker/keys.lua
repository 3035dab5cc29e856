-- The keys of the broker, for all its scripts. The caller names them (see keys.py): first those that
-- there are once, then the beginnings of the names of those that there are for each queue.
local queues, places, clock, delayed_messages, rejected = unpack(KEYS, 1, 5)
local streams, levels_of, wakeups_of, delayed_of = unpack(KEYS, 6, 9)

-- Return the fields of a stream's entry by name.
local function by_name(list)
  local fields = {}
  for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
  return fields
end

-- Return the key of the messages of a queue at a priority level.
local function stream_of(queue, level) return streams .. queue .. ':' .. level end
