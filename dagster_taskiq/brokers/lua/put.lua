-- Add one message to its queue, now or when its delay is over.
-- ARGV  1 prefix  2 queue  3 level  4 task id  5 body  6 milliseconds of delay
if tonumber(ARGV[6]) > 0 then
  delay(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]))
else
  arrive(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
end
