-- The usual cases of many calls at once: exclusive locks, whose holders are ours. KEYS: each call's lock. ARGV: how many of
-- the calls are releases, which come first; the id of each of these; then of each acquisition id, ttl, label and
-- "asks|patience|sent|channel". Replies what `remove` or `acquire` would to each, or false to one that is not a usual case:
-- nothing has changed by it, since reads come before writes, and it is for that script.
-- Moments stay text, of 16 digits until the year 2286: the script engine is slow with numbers.
local call = redis.call
local now

local function clock()
  local time = call('TIME')
  now = time[1] .. string.sub('00000' .. time[2], -6)
end

local function release(key, id)
  if call('GET', key) ~= id then return false end
  local stem = '{' .. key .. '}:'
  local head = call('LINDEX', stem .. 'q', '0')
  if not head then
    call('DEL', key)
    call('PEXPIRE', stem .. 'f', '5000')
    return 1
  end
  if not now then clock() end
  local packed = call('HGET', stem .. 'w', head)
  local alive, sent, channel, label = string.match(packed or '', '^(%d+)|x|%d+|%d+|%d+|(%d+)|([^|]*)|(.*)$')
  local last = string.match(call('GET', stem .. 'f') or '', '^(%d+)|')
  if not (alive and #alive == #now and alive > now and last and #last == #now and last < now) then return false end
  -- The first in line wants it as exclusively: it holds now, and believes in no more than what keeps its place.
  local px = math.ceil((alive - now) / 1000)
  call('LPOP', stem .. 'q')
  call('HDEL', stem .. 'w', head)
  call('SET', key, head, 'PX', px)
  call('SET', stem .. 'f', now .. '|' .. now .. '|' .. head .. '|' .. now .. '|' .. label, 'PX', px + 5000)
  -- It is held, whether it hears of it or finds out by itself.
  redis.pcall('PUBLISH', channel, head .. ' ' .. sent .. ' ' .. now .. ' ' .. now)
  return 1
end

local function acquire(key, id, ttl, label, rest)
  if not now then clock() end
  local stem = '{' .. key .. '}:'
  local withdrawn, queue = stem .. 'g:' .. id, stem .. 'q'
  local fence = call('GET', stem .. 'f')
  local last, holder = string.match(fence or '', '^(%d+)|%d*|([^|]*)|')
  if call('EXISTS', withdrawn, queue) == 0 and (not fence or last and #last == #now and last < now) and call('SET', key, id, 'NX', 'PX', ttl) then
    call('SET', stem .. 'f', now .. '|' .. now .. '|' .. id .. '|' .. now .. '|' .. label, 'PX', ttl + 5000)
    return now
  end

  -- One of ours holds it as exclusively?
  local value = call('GET', key)
  if not value or value ~= holder or value == id or call('EXISTS', withdrawn) == 1 then return false end
  local asks, patience, sent, channel = string.match(rest, '^(%a+)|(%d+)|(%d+)|(.*)$')
  if (tonumber(ttl) or 0) < 1 or (tonumber(patience) or 0) < 1 then return false end
  if asks == 'once' then
    return {'held', value, call('PTTL', key), fence, {}}
  end
  -- It becomes the last in line.
  local left, tail = '', call('LINDEX', queue, '-1')
  if tail then
    local waiters = call('HMGET', stem .. 'w', tail, id)
    local before = waiters[1] and string.match(waiters[1], '^(%d+)|')
    if asks ~= 'queue' or not before or waiters[2] or call('LLEN', queue) >= 512 then return false end
    left = string.format('%.0f', math.max(0, before - now))
  end
  local alive = string.format('%.0f', now + patience * 1000)
  call('HSET', stem .. 'w', id, table.concat({alive, 'x|0', ttl, now, sent, channel, label}, '|'))
  call('RPUSH', queue, id)
  -- Not for each that comes: it lasts for twice as long as this one may have to wait.
  local least = patience + 5000
  if call('PTTL', queue) < least then
    for _, beside in ipairs({'f', 'q', 'w'}) do
      if call('PTTL', stem .. beside) < least then call('PEXPIRE', stem .. beside, least + patience) end
    end
  end
  return {'waiting', left, value, call('PTTL', key), fence, {}}
end

local replies, releases, at = {}, tonumber(ARGV[1]), 1
for i = 1, #KEYS do
  local done, reply
  if i <= releases then
    done, reply = pcall(release, KEYS[i], ARGV[at + 1])
    at = at + 1
  else
    done, reply = pcall(acquire, KEYS[i], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    at = at + 4
  end
  replies[i] = done and reply
end
return replies
