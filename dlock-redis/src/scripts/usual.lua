-- The usual cases of many calls at once: exclusive locks, whose holders are ours. KEYS: each call's lock. ARGV: how many of
-- the calls are releases, which come first, and the id of each; then of acquisitions that ask for the same: how many, ttl,
-- patience, asks, sent, channel, label, and the id of each. Replies what `remove` or `acquire` would to each, or false to one
-- that is not a usual case: nothing has changed by it, and it is for that script.
--
-- The script engine takes longer than the commands: what all look at is read at once, functions for what is rare are made
-- when it comes, and moments stay text, of 16 digits until the year 2286, since such numbers are slow to read and to write.
local call, try, match, sub = redis.call, redis.pcall, string.match, string.sub
local keys, args, replies, releases = KEYS, ARGV, {}, tonumber(ARGV[1])
local now

local function clock()
  local time = call('TIME')
  now = time[1] .. sub('00000' .. time[2], -6)
end

-- May somebody be in the queue of the lock whose holder has this token?
local function is_flagged(fence, token)
  local last = fence and match(fence, '^(%d+)|w$')
  return last and #last == #token and last <= token
end

local function rare()
  -- Locks whose fence this script has marked.
  local marked = {}

  local function millis(moment)
    return tonumber(sub(moment, 1, 13))
  end

  -- Passes the lock of the holder with this token on to the first in line, if that wants it exclusively.
  local function hand_over(key, token)
    local stem = '{' .. key .. '}:'
    local queue, waiters = stem .. 'q', stem .. 'w'
    local head = call('LINDEX', queue, '0')
    if not head then
      call('DEL', key)
      try('SET', stem .. 'f', token, 'PX', '5000')
      return 1
    end
    local packed = call('HGET', waiters, head)
    local alive, ttl, sent, channel, label = match(packed or '', '^(%d+)|x|%d+|(%d+)|%d+|(%d+)|([^|]*)|(.*)$')
    if not (alive and #alive == #now and alive > now and #token == #now and token < now) then return false end
    -- It holds now, and believes in no more than what keeps its place.
    local px = math.min(millis(alive) - millis(now) + 1, tonumber(ttl))
    call('LPOP', queue)
    call('HDEL', waiters, head)
    call('SET', key, head .. '|' .. now .. '|' .. now .. '|' .. label, 'PX', px)
    if px < 5000 then try('SET', stem .. 'f', now .. '|w', 'KEEPTTL') end
    -- It is held, whether it hears of it or finds out by itself.
    try('PUBLISH', channel, head .. ' ' .. sent .. ' ' .. now .. ' ' .. now)
    return 1
  end

  -- Replies who holds, after it made this the last in line if it asks for that.
  local function stand_behind(key, value, fence, id, ttl, patience, asks, sent, channel, label)
    local holder, token = match(value, '^(%x+)|(%d+)|%d+|')
    local long = tonumber(patience) or 0
    if not holder or holder == id or long < 1 or (tonumber(ttl) or 0) < 1 then return false end
    local flagged = marked[key] or is_flagged(fence, token)
    if not flagged and fence and not (#fence == #token and fence <= token) then return false end
    if asks == 'once' then return {'held', value, call('PTTL', key), fence, {}} end
    local stem = '{' .. key .. '}:'
    local queue, waiters, at = stem .. 'q', stem .. 'w', millis(now)
    local alive = string.format('%d', at + long) .. sub(now, 14)
    local packed = table.concat({alive, 'x|0', ttl, now, sent, channel, label}, '|')
    if call('HSETNX', waiters, id, packed) == 0 then return false end
    local place, set = try('RPUSH', queue, id), nil
    local fits = type(place) == 'number' and place <= 512
    if fits and not flagged then
      set = try('SET', stem .. 'f', token .. '|w', 'KEEPTTL', fence and 'XX' or 'NX')
      marked[key] = set and set.ok
    end
    if not fits or not flagged and not marked[key] then
      if type(place) == 'number' then call('RPOP', queue) end
      call('HDEL', waiters, id)
      return false
    end
    -- Not for each that comes: they last for twice as long as this one may have to wait. The fence must outlast the queue.
    if not flagged or call('PTTL', queue) < long + 5000 then
      for _, name in ipairs({stem .. 'f', queue, waiters}) do
        if call('PTTL', name) < 2 * long + 5000 then call('PEXPIRE', name, 2 * long + 5000) end
      end
    end
    local left = ''
    if place > 1 then
      local before = match(call('HGET', waiters, call('LINDEX', queue, '-2')) or '', '^(%d+)|')
      if before then left = string.format('%d', math.max(0, millis(before) - at) * 1000) end
    end
    return {'waiting', left, value, call('PTTL', key), fence, {}}
  end

  return hand_over, stand_behind
end

local function safely(ask, ...)
  local done, reply = pcall(ask, ...)
  return done and reply
end

if releases > 0 then
  local names = {}
  for i = 1, releases do
    local key = keys[i]
    names[2 * i - 1], names[2 * i] = key, '{' .. key .. '}:f'
  end
  -- What one may not touch is that one's own trouble.
  local values, tokens, quiet, waited_for = try('MGET', unpack(names)), {}, {}, nil
  for i = 1, releases do
    local value, fence, id, reply = values[2 * i - 1], values[2 * i], args[i + 1], false
    local token = value and sub(value, 1, #id) == id and match(value, '^|(%d+)|', #id + 1)
    if token and (not fence or #fence == #token and fence <= token) then
      quiet[#quiet + 1], tokens[i], reply = keys[i], token, 1
    elseif token and is_flagged(fence, token) then
      -- By its key, or a release that is asked for twice would pass it on twice.
      waited_for = waited_for or {}
      waited_for[keys[i]] = waited_for[keys[i]] or {i, token}
    end
    replies[i] = reply
  end
  if #quiet > 0 then
    -- First, since the server refuses no later command of a script for lack of memory.
    call('DEL', unpack(quiet))
    for i, token in pairs(tokens) do
      try('SET', names[2 * i], token, 'PX', '5000', values[2 * i] and 'XX' or 'NX')
    end
  end
  if waited_for then
    clock()
    local hand_over = rare()
    for key, one in pairs(waited_for) do
      replies[one[1]] = safely(hand_over, key, one[2])
    end
  end
end

local from, at, stand_behind = releases, releases + 2, nil
while from < #keys do
  if not now then clock() end
  local count, ttl, patience, asks, sent, channel, label = tonumber(args[at]), unpack(args, at + 1, at + 6)
  local ids, names = at + 6, {}
  for i = 1, count do
    local key = keys[from + i]
    names[3 * i - 2], names[3 * i - 1], names[3 * i] = '{' .. key .. '}:f', '{' .. key .. '}:g:' .. args[ids + i], key
  end
  -- What the releases did must be told, whatever becomes of this.
  local values, tail = try('MGET', unpack(names)), '|' .. now .. '|' .. now .. '|' .. label
  local is_short, is_refused = (tonumber(ttl) or 0) < 5000, values.err
  for i = 1, count do
    local fence, withdrawn, value, reply = values[3 * i - 2], values[3 * i - 1], values[3 * i], false
    local key, id = names[3 * i], args[ids + i]
    -- A fence of another type looks like none. It is left as it is, and told when the lock is held or shared.
    if is_refused or withdrawn then
      -- For the other script.
    elseif value then
      stand_behind = stand_behind or select(2, rare())
      reply = safely(stand_behind, key, value, fence, id, ttl, patience, asks, sent, channel, label)
    elseif not fence or #fence == #now and fence < now then
      local set = try('SET', key, id .. tail, 'NX', 'PX', ttl)
      if set and set.ok then
        reply = now
        -- The token is to be known for five seconds at least.
        if is_short then try('SET', names[3 * i - 2], now, 'PX', ttl + 5000, fence and 'XX' or 'NX') end
      end
    end
    replies[from + i] = reply
  end
  from, at = from + count, ids + count + 1
end
return replies
