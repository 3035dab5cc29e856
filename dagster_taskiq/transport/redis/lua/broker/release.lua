-- Give a claimed message back, if this consumer still has the claim, and wake a listener.
-- ARGV  1 consumer  2 queue  3 level  4 id
local consumer, queue, level, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local stream = stream_of(queue, level)
local claim = redis.pcall('XPENDING', stream, 'workers', id, id, 1)
if claim.err or not claim[1] or claim[1][2] ~= consumer then return end
-- Redis cannot undo a claim. But a claim that looks older than any lease (ten years, in
-- milliseconds) does not count, and the next listener claims the message at its old place.
redis.call('XCLAIM', stream, 'workers', 'given-back', 0, id, 'IDLE', 315360000000,
           'RETRYCOUNT', math.max(0, claim[1][4] - 1), 'JUSTID')
wake(queue)
