-- Delete messages, and the streams that are empty then.
-- ARGV  1 reason, to add them to the rejected messages, or ''
--       2 milliseconds, to spare messages that were claimed within them, or ''
--       3.. queue, level, id, task id of each
-- Returns how many have been deleted.
local reason, spare = ARGV[1], ARGV[2]
local deleted = 0

local function is_spared(stream, id)
  if spare == '' then return false end
  local claim = redis.pcall('XPENDING', stream, 'workers', id, id, 1)
  return not claim.err and claim[1] ~= nil and claim[1][3] < tonumber(spare)
end

-- Add a message to the rejected ones. One that is none of ours may have any fields: they are its
-- body then.
local function set_aside(queue, level, task, fields)
  local kept = {'reason', reason, 'queue', queue, 'level', level, 'task', task,
                'body', fields['body'] or cjson.encode(fields)}
  if fields['own'] and fields['name'] then
    for _, name in ipairs({'own', 'name'}) do
      kept[#kept + 1] = name
      kept[#kept + 1] = fields[name]
    end
  end
  redis.call('XADD', rejected, 'MAXLEN', '~', 1000, '*', unpack(kept))
end

for i = 3, #ARGV, 4 do
  local queue, level, id, task = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stream = stream_of(queue, level)
  if not is_spared(stream, id) then
    if reason ~= '' then
      local entry = redis.call('XRANGE', stream, id, id)[1]
      if entry then set_aside(queue, level, task, by_name(entry[2])) end
    end
    deleted = deleted + remove(queue, level, id, task)
  end
end
return deleted
