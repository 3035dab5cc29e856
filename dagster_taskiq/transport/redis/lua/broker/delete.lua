-- Delete messages for good, and what nothing is left in.
-- ARGV  1 prefix  2 reason to keep them aside, or ''
--       3 milliseconds: spare those that were claimed within them, or '' to spare none
--       4.. queue, level, id, task id of each
-- Returns how many were still there.
local prefix, reason, spare = ARGV[1], ARGV[2], ARGV[3]
local places = prefix .. ':places'
local deleted = 0

local function is_spared(stream, id)
  if spare == '' then return false end
  local claim = redis.pcall('XPENDING', stream, 'workers', id, id, 1)
  return not claim.err and claim[1] ~= nil and claim[1][3] < tonumber(spare)
end

for i = 4, #ARGV, 4 do
  local queue, level, id, task = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stream = prefix .. ':queue:' .. queue .. ':' .. level
  if not is_spared(stream, id) then
    if reason ~= '' then
      local entry = redis.call('XRANGE', stream, id, id)
      if entry[1] then
        redis.call('XADD', prefix .. ':rejected', 'MAXLEN', '~', 1000, '*', 'reason', reason,
                   'queue', queue, 'task', task, 'fields', cjson.encode(entry[1][2]))
      end
    end
    redis.pcall('XACK', stream, 'workers', id)
    deleted = deleted + redis.call('XDEL', stream, id)
    -- Or it is delayed, and in no stream yet.
    deleted = deleted + redis.call('ZREM', prefix .. ':delayed:' .. queue, id)
    redis.call('HDEL', prefix .. ':delayed', id)
    local place = redis.call('HGET', places, task)
    if place and cjson.decode(place)[3] == id then redis.call('HDEL', places, task) end
    if redis.call('XLEN', stream) == 0 then
      redis.call('DEL', stream)
      redis.call('ZREM', prefix .. ':levels:' .. queue, level)
    end
  end
end
return deleted
