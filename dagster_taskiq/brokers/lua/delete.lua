-- Delete messages for good, and what nothing is left in.
-- ARGV  1 prefix  2 reason to keep them aside, or ''  3.. queue, level, id, task id of each
-- Returns how many were still there.
local prefix, reason = ARGV[1], ARGV[2]
local places = prefix .. ':places'
local deleted = 0
for i = 3, #ARGV, 4 do
  local queue, level, id, task = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stream = prefix .. ':queue:' .. queue .. ':' .. level
  if reason ~= '' then
    local entry = redis.call('XRANGE', stream, id, id)
    if entry[1] then
      redis.call('XADD', prefix .. ':rejected', 'MAXLEN', '~', 1000, '*',
                 'reason', reason, 'queue', queue, 'task', task, 'fields', cjson.encode(entry[1][2]))
    end
  end
  redis.pcall('XACK', stream, 'workers', id)
  deleted = deleted + redis.call('XDEL', stream, id)
  local place = redis.call('HGET', places, task)
  if place and cjson.decode(place)[3] == id then redis.call('HDEL', places, task) end
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream)
    redis.call('ZREM', prefix .. ':levels:' .. queue, level)
  end
end
return deleted
