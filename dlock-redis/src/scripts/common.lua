-- What the scripts for one operation share. KEYS of one lock, all in one slot:
--   1 the lock: "id|token|since|label" of its exclusive holder, or ~shared or ~permit; a foreign client's value is any other.
--     Foreign clients look at this key alone
--   2 fence: the last token, unless the lock has it, and "|w" behind it while somebody may be in the queue. It is there while
--     there is a queue, or holders
--   3 holders of a shared or permit lock: hash of id -> "expires|token|floor|ttl|since|mode|limit|label"
--   4 queue: list of waiters' ids, first in line first
--   5 waiters: hash of id -> "alive_until|mode|limit|ttl|since|sent|channel|label"
-- Times are microseconds since 1970 by this server, TTLs milliseconds, modes x, s and p; "sent" is the moment by the
-- waiter's own clock at which it sent the request that keeps its place. A grant tells it that on channel: "id sent token floor".
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- For so long a token is kept at least, by the lock or the fence: a clock that is set back by less turns no token back.
local IDLE = 5000
-- What `look` finds out: the largest token that is known, and whether the fence or a holder is something else.
local last, is_bad_fence, is_bad_holder = 0, false, false

local function text(number)
  return string.format('%.0f', number)
end

local function corrupt(what)
  error({err = 'DLOCKCORRUPT ' .. what})
end

local function milliseconds(value)
  local number = tonumber(value)
  if not number or number < 1 then
    error({err = 'DLOCKBADTTL ' .. tostring(value)})
  end
  return number
end

-- A token as a number, which is exact to 2^53.
local function number(token)
  local value = tonumber(token)
  return value and value < 9007199254740992 and value
end

-- Its exclusive holder, if that is one of ours.
local function read_lock(value)
  local id, token, since, label = string.match(value, '^(%x+)|(%d+)|(%d+)|(.*)$')
  return number(token) and {id = id, token = token, since = since, label = label}
end

local function read_holder(packed)
  local e, t, f, ttl, s, m, n, l = string.match(packed, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|([sp])|(%d+)|(.*)$')
  return number(t) and {expires = tonumber(e), token = t, floor = f, ttl = tonumber(ttl), since = s, mode = m, limit = n, label = l}
end

local function write_holder(id, h)
  local packed = {text(h.expires), h.token, h.floor, text(h.ttl), h.since, h.mode, h.limit, h.label}
  redis.call('HSET', KEYS[3], id, table.concat(packed, '|'))
end

local function read_waiter(packed)
  local a, m, n, ttl, s, sent, c, l = string.match(packed, '^(%d+)|([xsp])|(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$')
  if not a then corrupt('waiter') end
  return {alive = tonumber(a), mode = m, limit = n, ttl = tonumber(ttl), since = s, sent = sent, channel = c, label = l}
end

local function write_waiter(id, w)
  local packed = {text(w.alive), w.mode, w.limit, text(w.ttl), w.since, w.sent, w.channel, w.label}
  redis.call('HSET', KEYS[5], id, table.concat(packed, '|'))
end

-- Lets a key live at least so long.
local function keep(key, least)
  if redis.call('PTTL', key) < least then
    redis.call('PEXPIRE', key, text(least))
  end
end

local function write_fence(least)
  local waits = redis.call('EXISTS', KEYS[4]) == 1 and '|w' or ''
  redis.call('SET', KEYS[2], text(last) .. waits, 'KEEPTTL')
  keep(KEYS[2], least)
end

-- By the clock, which was set back, the next token would not be larger than the holder's.
local function remember_counted(ttl)
  if last > now and not is_bad_fence then pcall(write_fence, ttl + IDLE) end
end

local function extend(id, h, ttl)
  -- The first change of a script is what the server may refuse for lack of memory: this one needs none.
  redis.call('HDEL', KEYS[3], id)
  h.expires = math.max(h.expires, now + ttl * 1000)
  write_holder(id, h)
  keep(KEYS[1], ttl)
  if not is_bad_fence then keep(KEYS[2], ttl + IDLE) end
  keep(KEYS[3], ttl + IDLE)
end

local function forget_waiter(id)
  redis.call('LREM', KEYS[4], 1, id)
  return redis.call('HDEL', KEYS[5], id) == 1
end

local MARKER = {s = '~shared', p = '~permit'}

-- Who holds: the lock's value, the exclusive holder if that is one of ours, and the holders of a shared or permit lock with
-- those whose time is over taken out.
local function look(change)
  is_bad_fence, is_bad_holder = false, false
  local fence = redis.pcall('GET', KEYS[2])
  if fence then
    if type(fence) == 'table' and not string.find(fence.err, 'WRONGTYPE') then error(fence) end
    local token = type(fence) == 'string' and number(string.match(fence, '^(%d+)$') or string.match(fence, '^(%d+)|w$'))
    if token then last = math.max(last, token) else is_bad_fence = true end
  end
  local value = redis.call('GET', KEYS[1])
  local owner = value and read_lock(value)
  if owner then last = math.max(last, tonumber(owner.token)) end
  local holders, count = {}, 0
  if value == MARKER.s or value == MARKER.p then
    local flat = redis.call('HGETALL', KEYS[3])
    for i = 1, #flat, 2 do
      local h = read_holder(flat[i + 1])
      if not h then
        is_bad_holder, count = true, count + 1
      elseif h.expires > now then
        holders[flat[i]] = h
        count = count + 1
        last = math.max(last, tonumber(h.token))
      elseif change then
        redis.call('HDEL', KEYS[3], flat[i])
      end
    end
    if count == 0 then
      if change then redis.call('DEL', KEYS[1]) end
      value = false
    end
  end
  return value, owner, holders, count
end

local function admits(value, count, mode, limit)
  if not value then return true end
  return mode ~= 'x' and value == MARKER[mode] and (mode == 's' or count < tonumber(limit))
end

local function grant(id, mode, limit, ttl, expires, label)
  last = math.max(now, last + 1)
  local token, px = text(last), math.max(1, math.ceil((expires - now) / 1000))
  -- No exclusive holder comes between the last one and this.
  local floor = token
  if mode == 'x' then
    redis.call('SET', KEYS[1], table.concat({id, token, text(now), label}, '|'), 'PX', text(px))
  else
    floor = text(last - 1)
    -- What is left of holders whose lock is gone.
    if redis.call('EXISTS', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[3]) == 1 then redis.call('DEL', KEYS[3]) end
    write_holder(id, {expires = expires, token = token, floor = floor, ttl = ttl, since = text(now), mode = mode,
      limit = limit, label = label})
    px = math.max(px, redis.call('PTTL', KEYS[1]))
    redis.call('SET', KEYS[1], MARKER[mode], 'PX', text(px))
    keep(KEYS[3], px + IDLE)
  end
  write_fence(px + IDLE)
  return token, floor
end

-- Takes out what is over, and grants to the head of the queue while modes allow.
local function settle()
  local value, owner, holders, count = look(true)
  while not is_bad_fence and not is_bad_holder do
    local id = redis.call('LINDEX', KEYS[4], 0)
    if not id then break end
    local packed = redis.call('HGET', KEYS[5], id)
    local w = packed and read_waiter(packed)
    if not w or w.alive <= now then
      redis.call('LPOP', KEYS[4])
      redis.call('HDEL', KEYS[5], id)
    elseif admits(value, count, w.mode, w.limit) then
      redis.call('LPOP', KEYS[4])
      redis.call('HDEL', KEYS[5], id)
      -- The waiter believes in no more than what keeps its place.
      local token, floor = grant(id, w.mode, w.limit, w.ttl, math.min(w.alive, now + w.ttl * 1000), w.label)
      -- It is held, whether it hears of it or finds out by itself.
      redis.pcall('PUBLISH', w.channel, table.concat({id, w.sent, token, floor}, ' '))
      value = redis.call('GET', KEYS[1])
      owner, count = read_lock(value), count + 1
      if w.mode ~= 'x' then
        holders[id] = read_holder(redis.call('HGET', KEYS[3], id))
      end
    else
      break
    end
  end
  return value, owner, holders, count
end

-- Takes an acquisition out, be it holder or waiter. A foreign holder's id is the value of the lock.
local function remove(id)
  local value, owner, holders = look(true)
  local removed = true
  if value and (owner and owner.id or value) == id then
    redis.call('DEL', KEYS[1])
  elseif holders[id] then
    redis.call('HDEL', KEYS[3], id)
    if redis.call('HLEN', KEYS[3]) == 0 then redis.call('DEL', KEYS[1]) end
  else
    removed = forget_waiter(id)
  end
  -- If nobody holds it now, the fence alone remembers the token. What is wrong with a queue, the next one is told who wants the
  -- lock.
  local settled, held = pcall(settle)
  if is_bad_fence or (settled and held) then return removed end
  if not settled then
    write_fence(IDLE)
  elseif last > 0 then
    redis.call('SET', KEYS[2], text(last), 'PX', text(IDLE))
  else
    redis.call('DEL', KEYS[2])
  end
  return removed
end

-- The lock for a reply: its value, PTTL, fence, and shared or permit holders.
local function describe(value, holders)
  local flat = {}
  for id, h in pairs(holders) do
    for _, part in ipairs({id, text(h.expires - now), h.token, h.floor, text(h.ttl), h.since, h.mode, h.limit, h.label}) do
      flat[#flat + 1] = part
    end
  end
  return value, redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2]), flat
end
