-- KEYS: a lock's five. ARGV: id, ttl. Replies 1, or 0 if that id does not hold. Touches only what exists.
local id, ttl = ARGV[1], milliseconds(ARGV[2])
local _, owner, holders = look(false)
if owner and owner.id == id then
  keep(KEYS[1], ttl)
  remember_counted(ttl)
elseif holders[id] then
  extend(id, holders[id], ttl)
else
  return 0
end
return 1
