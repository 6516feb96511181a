-- The usual cases, in front of everything else since a function is made anew each time a script runs over it. What is not
-- one of them goes on below, and nothing has changed until then. Reads come before writes: an error leaves no half lock.
-- Moments stay text, of 16 digits until the year 2286: the script engine is slow with numbers.
if ARGV[2] == '0' then
  local call = redis.call
  local known = call('MGET', KEYS[1], KEYS[2])
  if known[1] == ARGV[1] then
    -- The holder of an exclusive lock gives it up.
    local head = call('LINDEX', KEYS[4], '0')
    if not head then
      call('DEL', KEYS[1])
      call('PEXPIRE', KEYS[2], '5000')
      return 1
    end
    local packed = call('HGET', KEYS[5], head)
    local alive, sent, channel, label = string.match(packed or '', '^(%d+)|x|%d+|%d+|%d+|(%d+)|([^|]*)|(.*)$')
    local last = string.match(known[2] or '', '^(%d+)|')
    local time = call('TIME')
    local now = time[1] .. string.sub('00000' .. time[2], -6)
    if alive and #alive == #now and alive > now and last and #last == #now and last < now then
      -- The first in line wants it as exclusively: it holds now, and believes in no more than what keeps its place.
      local px = math.ceil((alive - now) / 1000)
      call('LPOP', KEYS[4])
      call('HDEL', KEYS[5], head)
      call('SET', KEYS[1], head, 'PX', px)
      call('SET', KEYS[2], now .. '|' .. now .. '|' .. head .. '|' .. now .. '|' .. label, 'PX', px + 5000)
      call('PUBLISH', channel, head .. ' ' .. sent .. ' ' .. now .. ' ' .. now)
      return 1
    end
  end
end

