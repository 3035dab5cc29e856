-- Record that a scheduler has sent a firing.
-- KEYS  1 the last firing of the schedule that was claimed (hash)
-- ARGV  1 when it is due  2 the scheduler
local due, claimant = unpack(redis.call('HMGET', KEYS[1], 'due', 'by'))
if due and tonumber(due) == tonumber(ARGV[1]) and claimant == ARGV[2] then
  redis.call('HSET', KEYS[1], 'sent', 1)
end
