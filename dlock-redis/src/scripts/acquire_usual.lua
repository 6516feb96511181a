-- The usual cases, in front of everything else since a function is made anew each time a script runs over it. What is not
-- one of them goes on below, and nothing has changed until then. Reads come before writes: an error leaves no half lock.
if ARGV[2] == 'x' and (tonumber(ARGV[4]) or 0) >= 1 and (tonumber(ARGV[5]) or 0) >= 1 then
  if redis.call('EXISTS', KEYS[6], KEYS[4]) == 0 then
    -- An exclusive lock that nobody waits for: is it free?
    local last = redis.call('HGET', KEYS[2], 't')
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[4]) then
      local time = redis.call('TIME')
      local now = time[1] * 1000000 + time[2]
      local token = string.format('%.0f', math.max(now, (tonumber(last) or 0) + 1))
      redis.call('HSET', KEYS[2], 't', token, 'x', token, 'id', ARGV[1], 'token', token,
        'since', string.format('%.0f', now), 'label', ARGV[7])
      redis.call('PEXPIRE', KEYS[2], ARGV[4] + 5000)
      return {'granted', token, token}
    end
  end
end

