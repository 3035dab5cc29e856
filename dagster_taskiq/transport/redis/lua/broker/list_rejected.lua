-- Return rejected messages without their whole bodies, oldest first.
-- ARGV  1 how many at most  2 how many bytes of each body to return
--       3 after how many bytes of bodies to look no further
-- Returns {id, task id, queue, reason, size of the body, its beginning} for each.
local most, shown, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found, from, bytes = {}, '-', 0
while #found < most and bytes < most_bytes do
  local id, message = rejected_message(from, '+')
  if not id then break end
  local body = message['body']
  found[#found + 1] = {id, message['task'], message['queue'], message['reason'], #body,
                       string.sub(body, 1, shown)}
  bytes = bytes + #body
  from = id_after(id)
end
return found
