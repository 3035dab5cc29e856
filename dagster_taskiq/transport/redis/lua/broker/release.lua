-- Give a claimed message back, if it is still this consumer's, and ring the queue's bell.
-- ARGV  1 prefix  2 consumer  3 queue  4 level  5 id
local prefix, consumer, queue, level, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stream = prefix .. ':queue:' .. queue .. ':' .. level
local claim = redis.pcall('XPENDING', stream, 'workers', id, id, 1)
if claim.err or not claim[1] or claim[1][2] ~= consumer then return end
-- A claim cannot be taken back, but it can look older than any lease (ten years, in
-- milliseconds): then the next one to look takes the message, at its old place.
redis.call('XCLAIM', stream, 'workers', 'given-back', 0, id, 'IDLE', 315360000000,
           'RETRYCOUNT', math.max(0, claim[1][4] - 1), 'JUSTID')
ring(prefix, queue)
