-- KEYS: a lock's five, and where it is remembered 6 the mark of a withdrawn id. ARGV: id, how long to remember it as
-- withdrawn in milliseconds (0: not). Replies 1, or 0 if that id is neither holder nor waiter.
local done, removed = pcall(remove, ARGV[1])
-- Not first, since the server refuses only the first change of a script for lack of memory.
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[6], '1', 'PX', text(milliseconds(ARGV[2])))
end
if not done then error(removed) end
return removed and 1 or 0
