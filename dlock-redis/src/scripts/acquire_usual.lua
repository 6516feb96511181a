-- The usual cases, in front of everything else since a function is made anew each time a script runs over it. What is not
-- one of them goes on below, and nothing has changed until then. Reads come before writes: an error leaves no half lock.
if ARGV[2] == 'x' and (tonumber(ARGV[4]) or 0) >= 1 and (tonumber(ARGV[5]) or 0) >= 1 then
  local call = redis.call
  if call('EXISTS', KEYS[6], KEYS[4]) == 0 then
    -- An exclusive lock that nobody waits for: is it free?
    local last = call('GET', KEYS[2])
    last = tonumber(string.match(last or '0|', '^(%d+)|'))
    if last and call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[4]) then
      local time = call('TIME')
      local now = time[1] * 1000000 + time[2]
      local since = string.format('%.0f', now)
      local token = last < now and since or string.format('%.0f', last + 1)
      call('SET', KEYS[2], token .. '|' .. token .. '|' .. ARGV[1] .. '|' .. since .. '|' .. ARGV[7], 'PX', ARGV[4] + 5000)
      return token
    end
  elseif ARGV[8] == 'queue' and call('EXISTS', KEYS[6]) == 0 then
    -- Others wait for it already, and one of ours holds it as exclusively: it becomes the last in line.
    local value = call('GET', KEYS[1])
    local fence = call('GET', KEYS[2])
    local tail = call('LINDEX', KEYS[4], -1)
    local packed = tail and call('HGET', KEYS[5], tail)
    local before = packed and string.match(packed, '^(%d+)|')
    local holder = fence and string.match(fence, '^%d+|%d*|([^|]*)|')
    if value and value == holder and value ~= ARGV[1] and before and call('LLEN', KEYS[4]) < 512
      and call('HEXISTS', KEYS[5], ARGV[1]) == 0 then
      local time = call('TIME')
      local now = time[1] * 1000000 + time[2]
      local alive, since = string.format('%.0f', now + ARGV[5] * 1000), string.format('%.0f', now)
      call('RPUSH', KEYS[4], ARGV[1])
      call('HSET', KEYS[5], ARGV[1], table.concat({alive, 'x|0', ARGV[4], since, ARGV[6], ARGV[7]}, '|'))
      -- Not for each that comes: it lasts for twice as long as this one may have to wait.
      local least = ARGV[5] + 5000
      if call('PTTL', KEYS[4]) < least then
        for at = 2, 5 do
          if at ~= 3 then call('PEXPIRE', KEYS[at], least + ARGV[5]) end
        end
      end
      local left = string.format('%.0f', math.max(0, before - now))
      return {'waiting', left, value, call('PTTL', KEYS[1]), fence, {}}
    end
  end
end

