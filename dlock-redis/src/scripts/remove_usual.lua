-- The usual cases, in front of everything else since a function is made anew each time a script runs over it. What is not
-- one of them goes on below, and nothing has changed until then. Reads come before writes: an error leaves no half lock.
if ARGV[2] == '0' and redis.call('GET', KEYS[1]) == ARGV[1] then
  -- The holder of an exclusive lock gives it up.
  local head = redis.call('LINDEX', KEYS[4], 0)
  if not head then
    redis.call('DEL', KEYS[1])
    redis.call('PEXPIRE', KEYS[2], 5000)
    return 1
  end
  local packed = redis.call('HGET', KEYS[5], head)
  local alive, channel, label = string.match(packed or '', '^(%d+)|x|%d+|%d+|%d+|([^|]*)|(.*)$')
  local last = tonumber(string.match(redis.call('GET', KEYS[2]) or '0|', '^(%d+)|'))
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  if alive and tonumber(alive) > now and last then
    -- The first in line wants it as exclusively: it holds now, and believes in no more than it was told.
    local since = string.format('%.0f', now)
    local token = last < now and since or string.format('%.0f', last + 1)
    local px = math.ceil((alive - now) / 1000)
    redis.call('LPOP', KEYS[4])
    redis.call('HDEL', KEYS[5], head)
    redis.call('SET', KEYS[1], head, 'PX', px)
    redis.call('SET', KEYS[2], token .. '|' .. token .. '|' .. head .. '|' .. since .. '|' .. label, 'PX', px + 5000)
    redis.call('PUBLISH', channel, head .. ' ' .. token .. ' ' .. token)
    return 1
  end
end

