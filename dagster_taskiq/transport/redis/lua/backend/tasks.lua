-- Return the records of tasks.
-- KEYS  record of each task (hash)
-- ARGV  names of the fields that are wanted
-- Returns JSON, which clients read faster than as many values: for each task a list with the value of
-- each field, or false for a field that it does not have.
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HMGET', key, unpack(ARGV)) end
return cjson.encode(found)
