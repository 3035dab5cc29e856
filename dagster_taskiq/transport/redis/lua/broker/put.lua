-- Add messages to their queues, now or when their delay is over.
-- ARGV  for each message: queue, level, task id, body, attempt and name of a user's own task or '',
--       milliseconds of delay
for first = 1, #ARGV, 7 do
  local queue, level, task, body, attempt, name, ms = unpack(ARGV, first, first + 6)
  if tonumber(ms) > 0 then
    delay(queue, level, task, body, attempt, name, tonumber(ms))
  else
    arrive(queue, level, task, body, attempt, name)
  end
end
