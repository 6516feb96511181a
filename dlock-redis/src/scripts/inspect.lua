-- KEYS: a lock's five. Replies the lock as it is and changes nothing.
local value, _, holders = look(false)
local waiters = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  local packed = redis.call('HGET', KEYS[5], id)
  local w = packed and read_waiter(packed)
  if w and w.alive > now then
    for _, part in ipairs({id, w.mode, w.limit, w.since, w.label}) do
      waiters[#waiters + 1] = part
    end
  end
end
local v, pttl, fence, flat = describe(value, holders)
return {v, pttl, fence, flat, waiters}
