-- A function of the scripts that start tasks.

-- Make one attempt of a task STARTED by one worker, if it is WAITING or unknown. `try` names this
-- call: a caller whose answer was lost asks again with the same name. With `recorded`, the task is
-- started only if it is known.
-- Returns nothing, or why it did not start: its state, 'UNKNOWN', or 'NOT PUT BACK' if an earlier
-- attempt is STARTED.
local function start_task(record, forget_times, keep, task, try, recorded)
  local state, last_try, attempt = unpack(redis.call('HMGET', record, 'state', 'try', 'attempt'))
  if state == 'STARTED' and last_try == try then return end
  if not state and recorded then return 'UNKNOWN' end
  local later = tonumber(task.attempt) - tonumber(attempt or 0)
  if state == 'STARTED' and later > 0 then return 'NOT PUT BACK' end
  if state and state ~= 'WAITING' then return state end
  if state and later < 0 then return 'STARTED' end
  local now = redis.call('TIME')
  now = now[1] .. '.' .. string.format('%06d', now[2])
  if not state then
    redis.call('HSET', record, 'name', task.name, 'queue', task.queue, 'run_id', task.run,
               'step_key', task.step, 'submitted_at', now)
  end
  redis.call('HSET', record, 'state', 'STARTED', 'worker', task.worker, 'started_at', now,
             'try', try, 'attempt', task.attempt)
  redis.call('ZADD', forget_times, now + keep, task.id)
end
