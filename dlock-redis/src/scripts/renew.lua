-- KEYS: a lock's five. ARGV: id, ttl. Replies 1, or 0 if that id does not hold. Touches only what exists.
local id, ttl = ARGV[1], milliseconds(ARGV[2])
local _, owner, holders = look(false)
if owner and owner.id == id then
  keep(KEYS[1], ttl)
  remember_counted(ttl)
elseif holders[id] then
  local h = holders[id]
  -- The first change of a script is what the server may refuse for lack of memory, and this is none that needs any.
  redis.call('HDEL', KEYS[3], id)
  h.expires = math.max(h.expires, now + ttl * 1000)
  write_holder(id, h)
  keep(KEYS[1], ttl)
  if not is_corrupt then keep(KEYS[2], ttl + IDLE) end
  keep(KEYS[3], ttl + IDLE)
else
  return 0
end
return 1
