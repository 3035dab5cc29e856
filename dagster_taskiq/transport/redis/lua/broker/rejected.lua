-- Functions of the scripts that look at rejected messages.

-- Return the fields of a stream's entry, or of a message, by name.
local function by_name(list)
  local fields = {}
  for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
  return fields
end

-- Return a rejected message and what is known of it besides, both by name; nothing if it is not there.
local function rejected_message(id)
  local entry = redis.call('XRANGE', rejected, id, id)[1]
  if not entry then return end
  local about = by_name(entry[2])
  return by_name(cjson.decode(about['fields'])), about
end
