-- Claim the first message of several queues: highest level, then oldest.
-- ARGV  1 prefix  2 consumer  3 milliseconds after which another's claim counts for nothing
--       4.. queues
-- Returns {queue, level, id, task id, body, times delivered}, or nothing.
local prefix, consumer, stale = ARGV[1], ARGV[2], ARGV[3]

local function older(a, b)
  local a_ms, a_n = string.match(a, '(%d+)%-(%d+)')
  local b_ms, b_n = string.match(b, '(%d+)%-(%d+)')
  if tonumber(a_ms) ~= tonumber(b_ms) then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_n) < tonumber(b_n)
end

local places = {}
for i = 4, #ARGV do
  local levels = prefix .. ':levels:' .. ARGV[i]
  for _, level in ipairs(redis.call('ZREVRANGE', levels, 0, -1)) do
    local stream = prefix .. ':queue:' .. ARGV[i] .. ':' .. level
    local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
    if head[1] then
      places[#places + 1] = {queue = ARGV[i], level = level, stream = stream, head = head[1][1]}
    else
      -- Nothing is left at this level; its name comes back with the next message.
      redis.call('DEL', stream)
      redis.call('ZREM', levels, level)
    end
  end
end
table.sort(places, function(a, b)
  if a.level ~= b.level then return tonumber(a.level) > tonumber(b.level) end
  return older(a.head, b.head)
end)

for _, place in ipairs(places) do
  local entry
  -- First what was claimed and never started, or given back: it is older than what follows.
  local again = redis.pcall('XAUTOCLAIM', place.stream, 'workers', consumer, stale, '0-0', 'COUNT', 1)
  if again.err then
    -- The stream outlived its group (a partial restore): read it from the start.
    redis.pcall('XGROUP', 'CREATE', place.stream, 'workers', '0')
  elseif again[2] and again[2][1] and again[2][1][2] then
    entry = again[2][1]
  end
  if not entry then
    local fresh = redis.call('XREADGROUP', 'GROUP', 'workers', consumer, 'COUNT', 1,
                             'STREAMS', place.stream, '>')
    if fresh then entry = fresh[1][2][1] end
  end
  if entry then
    local fields = {}
    for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
    local pending = redis.call('XPENDING', place.stream, 'workers', entry[1], entry[1], 1)
    local times = pending[1] and pending[1][4] or 1
    return {place.queue, place.level, entry[1], fields['task'] or '', fields['body'] or '', times}
  end
end
return false
