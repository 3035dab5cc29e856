-- Give a claimed message back, if this consumer still has the claim, and wake a listener. A task that
-- was started with the claim, and has not begun, waits again. If it was revoked meanwhile, or its
-- message is gone, it ends.
-- KEYS  10 record of the task (hash)  11 when to forget tasks (sorted set)
-- ARGV  1 consumer  2 queue  3 level  4 id  5 task id  6 seconds to keep the record of one that ends
--       7 why it ends if its message is gone  8 '1' if it was started with the claim, or ''
local consumer, queue, level, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local stream = stream_of(queue, level)
local claim = redis.pcall('XPENDING', stream, 'workers', id, id, 1)
local is_claimed = not claim.err and claim[1] and claim[1][2] == consumer
if ARGV[8] ~= '' then
  local state, worker, revoke_requested =
    unpack(redis.call('HMGET', KEYS[10], 'state', 'worker', 'revoke_requested'))
  local is_mine = state == 'STARTED' and worker == consumer
  if is_mine and is_claimed and revoke_requested ~= '1' then
    redis.call('HSET', KEYS[10], 'state', 'WAITING', 'worker', '', 'started_at', 0, 'try', '')
  else
    if is_mine then
      local now = redis.call('TIME')
      now = now[1] .. '.' .. string.format('%06d', now[2])
      local ended = {'state', 'LOST', 'error', ARGV[7]}
      if revoke_requested == '1' then ended = {'state', 'REVOKED', 'started_at', 0} end
      redis.call('HSET', KEYS[10], 'finished_at', now, unpack(ended))
      redis.call('ZADD', KEYS[11], now + ARGV[6], ARGV[5])
    end
    if is_claimed then remove(queue, level, id, ARGV[5]) end
    return
  end
end
if not is_claimed then return end
-- Redis cannot undo a claim. But a claim that looks older than any lease (ten years, in
-- milliseconds) does not count, and the next listener claims the message at its old place.
redis.call('XCLAIM', stream, 'workers', 'given-back', 0, id, 'IDLE', 315360000000,
           'RETRYCOUNT', math.max(0, claim[1][4] - 1), 'JUSTID')
wake(queue)
