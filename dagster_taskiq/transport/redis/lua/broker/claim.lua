-- Claim the first message of several queues: highest level, then oldest. What is due arrives first.
-- ARGV  1 prefix  2 consumer  3 milliseconds after which another's claim counts for nothing
--       4 who asks, and 5 his name for this claim: asked again under it, it has the same answer
--       6.. queues
-- Returns {queue, level, id, task id, body, times delivered}, or nothing.
local prefix, consumer, stale = ARGV[1], ARGV[2], ARGV[3]
local answered = prefix .. ':claim:' .. ARGV[4]

local function older(a, b)
  local a_ms, a_n = string.match(a, '(%d+)%-(%d+)')
  local b_ms, b_n = string.match(b, '(%d+)%-(%d+)')
  if tonumber(a_ms) ~= tonumber(b_ms) then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_n) < tonumber(b_n)
end

-- Return the id of the first message of a stream that is free, and whether it was claimed before.
-- What was claimed and never started, or given back, is older than all that follows. XPENDING
-- looks at every claim; XAUTOCLAIM would give up after ten that are still good.
local function first_free(stream)
  local again = redis.pcall('XPENDING', stream, 'workers', 'IDLE', stale, '-', '+', 1)
  if again.err then
    -- The stream outlived its group (a partial restore): read it from the start.
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0')
  elseif again[1] then
    return again[1][1], true
  end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local about = {}
    for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
    if about['name'] == 'workers' then
      local after = '(' .. about['last-delivered-id']
      local fresh = redis.call('XRANGE', stream, after, '+', 'COUNT', 1)
      if fresh[1] then return fresh[1][1], false end
    end
  end
end

local function take(place)
  if not place.again then
    local fresh = redis.call('XREADGROUP', 'GROUP', 'workers', consumer, 'COUNT', 1,
                             'STREAMS', place.stream, '>')
    return fresh and fresh[1][2][1]
  end
  local entry = redis.call('XCLAIM', place.stream, 'workers', consumer, 0, place.id)[1]
  if entry and entry[2] then return entry end
  -- Claimed, and deleted by someone else since: there is nothing behind the claim.
  redis.call('XACK', place.stream, 'workers', place.id)
end

-- Return what is answered about an entry that this consumer holds.
local function answer(queue, level, stream, entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  local claims = redis.call('XPENDING', stream, 'workers', entry[1], entry[1], 1)
  local times = claims[1] and claims[1][4] or 1
  return {queue, level, entry[1], fields['task'] or '', fields['body'] or '', times}
end

-- Keep no more rings of a queue than there are messages: for those who are busy, nobody rings.
local function hush(queue, levels)
  local messages = 0
  for _, place in ipairs(levels) do
    if place.queue == queue then messages = messages + redis.call('XLEN', place.stream) end
  end
  redis.call('LTRIM', prefix .. ':rings:' .. queue, 0, messages - 1)
end

-- The answer to this claim got lost, with the connection it was on, and it is asked again.
local before = redis.call('GET', answered)
local name, queue, level, id
if before then name, queue, level, id = unpack(cjson.decode(before)) end
if name == ARGV[5] then
  local stream = prefix .. ':queue:' .. queue .. ':' .. level
  local mine = redis.pcall('XPENDING', stream, 'workers', id, id, 1, consumer)
  local entry = not mine.err and mine[1] and redis.call('XRANGE', stream, id, id)[1]
  if entry then return answer(queue, level, stream, entry) end
end

local levels = {}
for i = 6, #ARGV do
  arrive_due(prefix, ARGV[i])
  local known = prefix .. ':levels:' .. ARGV[i]
  for _, level in ipairs(redis.call('ZREVRANGE', known, 0, -1)) do
    local stream = prefix .. ':queue:' .. ARGV[i] .. ':' .. level
    if redis.call('EXISTS', stream) == 1 then
      levels[#levels + 1] = {queue = ARGV[i], level = level, stream = stream}
    else
      -- Nothing is left at this level; its name comes back with the next message.
      redis.call('ZREM', known, level)
    end
  end
end
table.sort(levels, function(a, b) return tonumber(a.level) > tonumber(b.level) end)

local at = 1
while levels[at] do
  -- Of the streams of one level, the one whose first free message came first.
  local best
  local past = at
  while levels[past] and levels[past].level == levels[at].level do
    local place = levels[past]
    place.id, place.again = first_free(place.stream)
    if place.id and (not best or older(place.id, best.id)) then best = place end
    past = past + 1
  end
  if not best then
    at = past
  else
    local entry = take(best)
    if entry then
      hush(best.queue, levels)
      -- Kept for as long as the claim counts, or until he asks for another.
      redis.call('SET', answered, cjson.encode({ARGV[5], best.queue, best.level, entry[1]}), 'PX', stale)
      return answer(best.queue, best.level, best.stream, entry)
    end
  end
end
if before then redis.call('DEL', answered) end
for i = 6, #ARGV do
  local rings = prefix .. ':rings:' .. ARGV[i]
  -- A server that takes no writes is no trouble to those who have nothing to do.
  if redis.call('EXISTS', rings) == 1 then redis.call('DEL', rings) end
end
return false
