-- A function of the scripts that look at rejected messages.

-- Return the first rejected message between two ids: its id, and its fields by name. Nothing if there
-- is none.
local function rejected_message(from, to)
  local entry = redis.call('XRANGE', rejected, from, to, 'COUNT', 1)[1]
  if not entry then return end
  local message = by_name(entry[2])
  if message['fields'] then
    -- An earlier release has set it aside.
    local fields = by_name(cjson.decode(message['fields']))
    message['body'], message['own'] = fields['body'] or '', fields['own']
    message['name'] = fields['name']
  end
  return entry[1], message
end
