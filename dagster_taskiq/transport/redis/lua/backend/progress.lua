-- Keep the progress of a task in its record, if there is one.
-- KEYS  1 record of the task (hash)
-- ARGV  1 progress
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'progress', ARGV[1]) end
