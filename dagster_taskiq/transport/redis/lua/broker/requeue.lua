-- Put rejected messages back into their queues. A message of an earlier release has no level.
-- ARGV  their ids
-- Returns the ids of those that were there.
local found = {}
for _, wanted in ipairs(ARGV) do
  local id, message = rejected_message(wanted, wanted)
  if id then
    arrive(message['queue'], message['level'] or '0', message['task'], message['body'],
           message['own'], message['name'])
    redis.call('XDEL', rejected, id)
    found[#found + 1] = id
  end
end
return found
