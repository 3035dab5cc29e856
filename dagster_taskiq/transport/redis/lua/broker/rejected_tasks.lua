-- Return {id, task id} of each of these rejected messages that is there.
-- ARGV  their ids
local found = {}
for _, id in ipairs(ARGV) do
  local _, about = rejected_message(id)
  if about then found[#found + 1] = {id, about['task']} end
end
return found
