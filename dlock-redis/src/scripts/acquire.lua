-- KEYS: a lock's five, and 6 the mark of a withdrawn id. ARGV: id, mode with its limit (x0, s0, p3), ttl, patience, sent,
-- channel, label, asks (once | queue | again). Replies {answer, ...}, or only the token of an exclusive lock.
local id, sent, channel, label, asks = ARGV[1], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local mode, limit = string.match(ARGV[2], '^([xsp])(%d+)$')
local ttl, patience = milliseconds(ARGV[3]), milliseconds(ARGV[4])
if redis.call('EXISTS', KEYS[6]) == 1 then
  return {'withdrawn'}
end
local value, owner, holders, count = settle()
if is_bad_fence or is_bad_holder then corrupt('fence or holder') end

if owner and owner.id == id then
  keep(KEYS[1], ttl)
  remember_counted(ttl)
  return owner.token
end
if holders[id] then
  extend(id, holders[id], ttl)
  return {'granted', holders[id].token, holders[id].floor}
end

local head = redis.call('LINDEX', KEYS[4], 0)
local packed = head and redis.call('HGET', KEYS[5], id)
local function waiting(w)
  w.alive = math.max(w.alive, now + patience * 1000)
  w.sent, w.channel = sent, channel
  write_waiter(id, w)
  local place = packed and redis.call('LPOS', KEYS[4], id) or redis.call('RPUSH', KEYS[4], id) - 1
  keep(KEYS[4], patience + IDLE)
  keep(KEYS[5], patience + IDLE)
  write_fence(patience + IDLE)
  -- The one before may be granted without knowing, and so end when it counts as gone.
  local before = place > 0 and redis.call('HGET', KEYS[5], redis.call('LINDEX', KEYS[4], place - 1))
  before = before and string.match(before, '^(%d+)|')
  local left = before and text(math.max(0, before - now)) or ''
  return {'waiting', left, describe(value, holders)}
end
if packed then
  return waiting(read_waiter(packed))
end
if asks == 'again' then
  return {'gone'}
end

-- Who uses the key already, and do they agree with us on what kind of lock it is?
local other, other_limit
if value == MARKER.s then
  other = 's'
elseif value == MARKER.p then
  local _, h = next(holders)
  other, other_limit = 'p', h.limit
elseif owner then
  other = 'x'
elseif head then
  local w = read_waiter(redis.call('HGET', KEYS[5], head))
  other, other_limit = w.mode, w.limit
end
if other and (other == 'p' or mode == 'p') and (other ~= mode or other_limit ~= limit) then
  return {'disagrees', other, other_limit or '0'}
end

local crowd = count + redis.call('LLEN', KEYS[4])
if not head and admits(value, count, mode, limit) then
  local token, floor = grant(id, mode, limit, ttl, now + ttl * 1000, label)
  return {'granted', token, floor}
end
if asks == 'once' then
  return {'held', describe(value, holders)}
end
if crowd >= 512 then
  return {'full', describe(value, holders)}
end
return waiting({alive = 0, mode = mode, limit = limit, ttl = ttl, since = text(now), label = label})
