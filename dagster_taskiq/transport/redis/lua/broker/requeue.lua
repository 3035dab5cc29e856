-- Put rejected messages back into their queues. A message of an older release has no level.
-- ARGV  their ids
-- Returns the ids of those that were there.
local found = {}
for _, id in ipairs(ARGV) do
  local message, about = rejected_message(id)
  if message then
    arrive(about['queue'], about['level'] or '0', about['task'], message['body'], message['own'],
           message['name'])
    redis.call('XDEL', rejected, id)
    found[#found + 1] = id
  end
end
return found
