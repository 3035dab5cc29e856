-- Claim a firing of a schedule for one scheduler.
-- KEYS  1 the last firing of the schedule that was claimed (hash)
-- ARGV  1 when it is due  2 the scheduler  3 milliseconds after which another one may claim it
--       4 milliseconds to remember it, 0 for ever
-- Returns 'mine', 'others' or 'sent'.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due, claimant, at, sent = unpack(redis.call('HMGET', KEYS[1], 'due', 'by', 'at', 'sent'))
if due and tonumber(due) > tonumber(ARGV[1]) then return 'sent' end
if due and tonumber(due) == tonumber(ARGV[1]) then
  if sent then return 'sent' end
  if claimant ~= ARGV[2] and now < tonumber(at) + ARGV[3] then return 'others' end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'due', ARGV[1], 'by', ARGV[2], 'at', string.format('%.0f', now))
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 'mine'
