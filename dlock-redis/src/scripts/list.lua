-- ARGV: a cursor, and what the names of the locks begin with. Replies the next cursor, and of some keys those that are a
-- lock, or the fence or queue of one. It looks at each value here, since an application may have many keys of other kinds.
local prefix = ARGV[2]
local page = redis.call('SCAN', ARGV[1], 'COUNT', '500')
local found = {}
for _, name in ipairs(page[2]) do
  if string.sub(name, 1, 1) == '{' then
    if string.sub(name, 2, #prefix + 1) == prefix and string.match(name, '}:[fq]$') then
      found[#found + 1] = name
    end
  elseif string.sub(name, 1, #prefix) == prefix then
    -- Far enough for an id and a token. A key of another kind, or of another user, is no lock.
    local start = redis.pcall('GETRANGE', name, '0', '63')
    if type(start) == 'string' and (string.match(start, '^%x+|%d+|') or start == '~shared' or start == '~permit') then
      found[#found + 1] = name
    end
  end
end
return {page[1], found}
