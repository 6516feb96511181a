-- KEYS: a lock's five, and where it is remembered 6 the mark of a withdrawn id. ARGV: id, how long to remember it as
-- withdrawn in milliseconds (0: not). Replies 1, or 0 if that id is neither holder nor waiter.
if ARGV[2] ~= '0' then
  local remember = text(milliseconds(ARGV[2]))
  -- Once a script has changed anything, the server refuses it nothing for lack of memory.
  redis.call('DEL', KEYS[6])
  redis.call('SET', KEYS[6], '1', 'PX', remember)
end
return remove(ARGV[1]) and 1 or 0
