-- Give up a task that a worker has started, to be run again, and put its message into its queue.
-- KEYS  10 record of the task (hash)  11 when to forget tasks (sorted set)
-- ARGV  1 id  2 worker  3 attempt  4 seconds to keep the record
--       5.. queue, level, body, attempt, name, milliseconds of delay of the message, if there is one
-- Returns 1, or 0 if that attempt is not STARTED by that worker, or was revoked; nothing changes
-- then.
local state, worker, attempt, revoke_requested =
  unpack(redis.call('HMGET', KEYS[10], 'state', 'worker', 'attempt', 'revoke_requested'))
if state ~= 'STARTED' or worker ~= ARGV[2] or revoke_requested == '1' then return 0 end
if tonumber(attempt or 0) ~= tonumber(ARGV[3]) then return 0 end
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('HSET', KEYS[10], 'state', 'WAITING', 'worker', '', 'submitted_at', now,
           'started_at', 0, 'attempt', ARGV[3] + 1)
redis.call('ZADD', KEYS[11], now + ARGV[4], ARGV[1])
if ARGV[5] then
  local queue, level, body, next_attempt, name, ms = unpack(ARGV, 5, 10)
  if tonumber(ms) > 0 then
    delay(queue, level, ARGV[1], body, next_attempt, name, tonumber(ms))
  else
    arrive(queue, level, ARGV[1], body, next_attempt, name)
  end
end
return 1
