-- Add messages to their queues, now or when their delay is over.
-- ARGV  1 prefix, and for each message: queue, level, task id, body, milliseconds of delay
for first = 2, #ARGV, 5 do
  local queue, level, task, body, ms = unpack(ARGV, first, first + 4)
  if tonumber(ms) > 0 then
    delay(ARGV[1], queue, level, task, body, tonumber(ms))
  else
    arrive(ARGV[1], queue, level, task, body)
  end
end
