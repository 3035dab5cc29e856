-- Start a task: see start_task().
-- KEYS  1 record of the task (hash)  2 when to forget tasks (sorted set)
-- ARGV  1 id  2 seconds to keep the record  3 worker  4 name  5 queue  6 run  7 step
--       8 name of this call  9 '1' to start the task only if it is known  10 attempt of the message
-- Returns nothing, or why it did not start.
local task = {id = ARGV[1], worker = ARGV[3], name = ARGV[4], queue = ARGV[5], run = ARGV[6],
              step = ARGV[7], attempt = ARGV[10]}
return start_task(KEYS[1], KEYS[2], ARGV[2], task, ARGV[8], ARGV[9] == '1') or false
