-- Return {id, task id} of each of these rejected messages that is there.
-- ARGV  their ids
local found = {}
for _, wanted in ipairs(ARGV) do
  local id, message = rejected_message(wanted, wanted)
  if id then found[#found + 1] = {id, message['task']} end
end
return found
