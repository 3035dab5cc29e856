-- Claim the first message of several queues: of the highest level, the oldest. Delayed messages that
-- are due are added to their streams before. Where that is asked for, a user's own task is started
-- with its claim, in the same step.
-- KEYS  10 the answer to this listener's last claim (string)  11 when to forget tasks (sorted set)
--       12 how the names of the keys of records begin
-- ARGV  1 consumer  2 milliseconds after which a claim does not count any more
--       3 number of this claim: a listener whose answer was lost asks again with the same number,
--         and gets the same message
--       4 seconds to keep the record of a task that is started; '' to start none
--       5 how many messages are to be deleted first  6.. queue, level, id, task id of each of them
--       then the queues
-- Returns {JSON of queue, level, id, task id, number of deliveries and start; body}, or nothing. The
-- start is 'STARTED', '' where none was tried, or the state that forbids it after 'REFUSED '; the
-- message is deleted then.
local consumer, stale, number, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local answered = KEYS[10]
local first_queue = 6 + 4 * ARGV[5]
-- How long the answer to a claim that starts a task is kept, in milliseconds: nobody else may run it.
local DAY = 86400000
for i = 6, first_queue - 1, 4 do remove(unpack(ARGV, i, i + 3)) end

local function older(a, b)
  local a_ms, a_n = string.match(a, '(%d+)%-(%d+)')
  local b_ms, b_n = string.match(b, '(%d+)%-(%d+)')
  if tonumber(a_ms) ~= tonumber(b_ms) then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_n) < tonumber(b_n)
end

-- Return the id of the first free message of a stream, and whether it was claimed before. A message
-- that was claimed and never started, or was given back, is older than all messages that were never
-- claimed. Of a stream that is alone at its level, the id of one that was never claimed is '': there is
-- nothing to compare it with, and there may be none.
local function first_free(stream, is_alone)
  local again = stale_claims(stream, stale, 1)
  if again.err then
    -- The stream has no group (it was restored without one): read it from the start.
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0')
  elseif again[1] then
    return again[1][1], true
  end
  if is_alone then return '', false end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local about = by_name(group)
    if about['name'] == 'workers' then
      local from = id_after(about['last-delivered-id'])
      local fresh = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)
      if fresh[1] then return fresh[1][1], false end
    end
  end
end

-- Claim the first free message of a place; return its entry, or nothing if it was deleted.
local function take(place)
  if not place.again then
    local fresh = redis.call('XREADGROUP', 'GROUP', 'workers', consumer, 'COUNT', 1,
                             'STREAMS', place.stream, '>')
    return fresh and fresh[1][2][1]
  end
  local entry = redis.call('XCLAIM', place.stream, 'workers', consumer, 0, place.id)[1]
  if entry and entry[2] then return entry end
  -- The message was claimed, and has been deleted since: only its claim is left.
  redis.call('XACK', place.stream, 'workers', place.id)
end

-- Return the answer for an entry that this consumer has claimed, with the parts of its JSON; `is_first`
-- if it was never claimed before.
local function answer(queue, level, stream, entry, is_first)
  local fields = by_name(entry[2])
  local times = 1
  if not is_first then
    local claims = redis.call('XPENDING', stream, 'workers', entry[1], entry[1], 1)
    if claims[1] then times = claims[1][4] end
  end
  local id, start = fields['task'] or '', ''
  -- One that was claimed before, and not started, is looked at by the listener first.
  if keep ~= '' and fields['own'] and times == 1 then
    local task = {id = id, worker = consumer, name = fields['name'], queue = queue, run = '',
                  step = '', attempt = fields['own']}
    local refused = start_task(KEYS[12] .. id, KEYS[11], keep, task, answered .. number)
    if not refused then
      start = 'STARTED'
    elseif refused ~= 'NOT PUT BACK' then
      start = 'REFUSED ' .. refused
      remove(queue, level, entry[1], id)
    end
  end
  local about = {queue, level, entry[1], id, times, start}
  -- Few values, since clients read each by itself.
  return {cjson.encode(about), fields['body'] or ''}, about
end

-- End a task that was started by this very claim, whose message was deleted before its answer arrived.
local function give_up_start(id)
  local record = KEYS[12] .. id
  local state, try = unpack(redis.call('HMGET', record, 'state', 'try'))
  if state ~= 'STARTED' or try ~= answered .. number then return end
  local now = redis.call('TIME')
  now = now[1] .. '.' .. string.format('%06d', now[2])
  redis.call('HSET', record, 'state', 'LOST', 'finished_at', now,
             'error', 'Its message was lost with the connection of the worker that started it.')
end

-- Keep no more wake-ups of a queue than it has messages: busy listeners have left the others.
local function trim_wakeups(queue, levels)
  local messages = 0
  for _, place in ipairs(levels) do
    if place.queue == queue then messages = messages + redis.call('XLEN', place.stream) end
  end
  redis.call('LTRIM', wakeups_of .. queue, 0, messages - 1)
end

-- If the answer to this claim was lost with its connection, give it again.
local before = redis.call('GET', answered)
local name, queue, level, id, task
if before then name, queue, level, id, task = unpack(cjson.decode(before)) end
if name == number then
  local stream = stream_of(queue, level)
  local mine = redis.pcall('XPENDING', stream, 'workers', id, id, 1, consumer)
  local entry = not mine.err and mine[1] and redis.call('XRANGE', stream, id, id)[1]
  if entry then return (answer(queue, level, stream, entry)) end
  if keep ~= '' then give_up_start(task) end
end

local levels = {}
for i = first_queue, #ARGV do
  arrive_due(ARGV[i])
  local known = levels_of .. ARGV[i]
  for _, level in ipairs(redis.call('ZREVRANGE', known, 0, -1)) do
    local stream = stream_of(ARGV[i], level)
    if redis.call('EXISTS', stream) == 1 then
      levels[#levels + 1] = {queue = ARGV[i], level = level, stream = stream}
    else
      -- No message is left at this level; the next one adds the level again.
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
  local is_alone = not levels[at + 1] or levels[at + 1].level ~= levels[at].level
  while levels[past] and levels[past].level == levels[at].level do
    local place = levels[past]
    place.id, place.again = first_free(place.stream, is_alone)
    if place.id and (not best or older(place.id, best.id)) then best = place end
    past = past + 1
  end
  if not best then
    at = past
  else
    local entry = take(best)
    if entry then
      trim_wakeups(best.queue, levels)
      local found, about = answer(best.queue, best.level, best.stream, entry, not best.again)
      -- Kept for as long as the claim counts, or until this listener's next claim.
      redis.call('SET', answered,
                 cjson.encode({number, best.queue, best.level, entry[1], about[4]}),
                 'PX', about[6] == 'STARTED' and math.max(stale, DAY) or stale)
      return found
    elseif is_alone and not best.again then
      at = past
    end
  end
end
if before then redis.call('DEL', answered) end
for i = first_queue, #ARGV do
  local wakeups = wakeups_of .. ARGV[i]
  -- Writing only if it is needed lets idle listeners work on a server that takes no writes.
  if redis.call('EXISTS', wakeups) == 1 then redis.call('DEL', wakeups) end
end
return false
