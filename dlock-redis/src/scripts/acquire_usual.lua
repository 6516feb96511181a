-- The usual cases, in front of everything else since a function is made anew each time a script runs over it. What is not
-- one of them goes on below, and nothing has changed until then. Reads come before writes: an error leaves no half lock.
if ARGV[2] == 'x' and (tonumber(ARGV[4]) or 0) >= 1 and (tonumber(ARGV[5]) or 0) >= 1 then
  local call = redis.call
  if call('EXISTS', KEYS[6], KEYS[4]) == 0 then
    -- An exclusive lock that nobody waits for: is it free?
    local last = call('HGET', KEYS[2], 't')
    if call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[4]) then
      local time = call('TIME')
      local now = time[1] * 1000000 + time[2]
      local token = string.format('%.0f', math.max(now, (tonumber(last) or 0) + 1))
      call('HSET', KEYS[2], 't', token, 'x', token, 'id', ARGV[1], 'token', token, 'since', string.format('%.0f', now),
        'label', ARGV[7])
      call('PEXPIRE', KEYS[2], ARGV[4] + 5000)
      return {'granted', token, token}
    end
  elseif ARGV[8] == 'queue' and call('EXISTS', KEYS[6]) == 0 then
    -- Others wait for it already, and one of ours holds it as exclusively: it becomes the last in line.
    local value = call('GET', KEYS[1])
    local fence = call('HMGET', KEYS[2], 't', 'id', 'token', 'since', 'label')
    local tail = call('LINDEX', KEYS[4], -1)
    local packed = tail and call('HGET', KEYS[5], tail)
    local before = packed and string.match(packed, '^(%d+)|')
    if value and value == fence[2] and value ~= ARGV[1] and before and call('LLEN', KEYS[4]) < 512
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

