-- The usual cases, in front of everything else since a function is made anew each time a script runs over it. What is not
-- one of them goes on below, and nothing has changed until then. Reads come before writes: an error leaves no half lock.
-- Moments stay text, of 16 digits until the year 2286: the script engine is slow with numbers.
if ARGV[2] == 'x0' then
  local call = redis.call
  if call('EXISTS', KEYS[6], KEYS[4]) == 0 then
    -- An exclusive lock that nobody waits for: is it free?
    local fence = call('GET', KEYS[2])
    local last = fence and string.match(fence, '^(%d+)|')
    local time = call('TIME')
    local now = time[1] .. string.sub('00000' .. time[2], -6)
    if (not fence or (last and #last == #now and last < now)) and call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[3]) then
      call('SET', KEYS[2], now .. '|' .. now .. '|' .. ARGV[1] .. '|' .. now .. '|' .. ARGV[7], 'PX', ARGV[3] + 5000)
      return now
    end
  elseif ARGV[8] == 'queue' and (tonumber(ARGV[3]) or 0) >= 1 and (tonumber(ARGV[4]) or 0) >= 1 then
    -- Others wait for it already, and one of ours holds it as exclusively: it becomes the last in line.
    local known = call('MGET', KEYS[1], KEYS[2], KEYS[6])
    local value, fence, gone = known[1], known[2], known[3]
    local holder = fence and string.match(fence, '^%d+|%d*|([^|]*)|')
    local tail = call('LINDEX', KEYS[4], '-1')
    local waiters = tail and call('HMGET', KEYS[5], tail, ARGV[1])
    local before = waiters and waiters[1] and string.match(waiters[1], '^(%d+)|')
    if value and value == holder and value ~= ARGV[1] and not gone and before and not waiters[2]
      and call('LLEN', KEYS[4]) < 512 then
      local time = call('TIME')
      local now = time[1] .. string.sub('00000' .. time[2], -6)
      local alive = string.format('%.0f', now + ARGV[4] * 1000)
      call('RPUSH', KEYS[4], ARGV[1])
      call('HSET', KEYS[5], ARGV[1], table.concat({alive, 'x|0', ARGV[3], now, ARGV[5], ARGV[6], ARGV[7]}, '|'))
      -- Not for each that comes: it lasts for twice as long as this one may have to wait.
      local least = ARGV[4] + 5000
      if call('PTTL', KEYS[4]) < least then
        for at = 2, 5 do
          if at ~= 3 and call('PTTL', KEYS[at]) < least then call('PEXPIRE', KEYS[at], least + ARGV[4]) end
        end
      end
      local left = string.format('%.0f', math.max(0, before - now))
      return {'waiting', left, value, call('PTTL', KEYS[1]), fence, {}}
    end
  end
end

