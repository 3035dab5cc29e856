-- Functions of the scripts that look at the claims of a stream. Redis 6.0 knows neither exclusive
-- ranges nor a filter for claims that are idle for some time.

-- How many claims are read at once where the server cannot filter them.
local CLAIMS_AT_ONCE = 100

-- Return the first id that can come after another one.
local function id_after(id)
  local ms, n = string.match(id, '(%d+)%-(%d+)')
  return string.format('%s-%.0f', ms, tonumber(n) + 1)
end

-- Return claims of a stream that are older than some milliseconds, in order, at most `most`: the id
-- of the message first in each. The answer has a field `err` if the stream has no group.
local function stale_claims(stream, stale, most)
  local answer = redis.pcall('XPENDING', stream, 'workers', 'IDLE', stale, '-', '+', most)
  if not answer.err or string.find(answer.err, 'NOGROUP') then return answer end
  local found, from = {}, '-'
  while from and #found < most do
    local claims = redis.pcall('XPENDING', stream, 'workers', from, '+', CLAIMS_AT_ONCE)
    if claims.err then return claims end
    for _, claim in ipairs(claims) do
      if claim[3] >= stale and #found < most then found[#found + 1] = claim end
    end
    from = #claims == CLAIMS_AT_ONCE and id_after(claims[#claims][1])
  end
  return found
end
