-- KEYS: a lock's five. ARGV: id, ttl. Replies 1, or 0 if that id does not hold. Touches only what exists.
local id, ttl = ARGV[1], milliseconds(ARGV[2])
local _, owner, holders = look(false)
if owner and owner.id == id then
  keep(KEYS[1], ttl)
  -- By the clock, which was set back, the next token would not be larger.
  if last > now and not is_corrupt then write_fence(ttl + IDLE) end
elseif holders[id] then
  local h = holders[id]
  h.expires = math.max(h.expires, now + ttl * 1000)
  write_holder(id, h)
  keep(KEYS[1], ttl)
  keep(KEYS[2], ttl + IDLE)
  keep(KEYS[3], ttl + IDLE)
else
  return 0
end
return 1
