-- Add messages to their queues, now or when their delay is over.
-- ARGV  for each message: queue, level, task id, body, milliseconds of delay
for first = 1, #ARGV, 5 do
  local queue, level, task, body, ms = unpack(ARGV, first, first + 4)
  if tonumber(ms) > 0 then
    delay(queue, level, task, body, tonumber(ms))
  else
    arrive(queue, level, task, body)
  end
end
