-- ARGV: a cursor, and what the names of the locks begin with. Replies the next cursor, and of some keys those that are a
-- lock, or the fence of one, which is there while there is a queue. It looks at values here, since an application may have many
-- other keys.
local prefix = ARGV[2]
local page = redis.call('SCAN', ARGV[1], 'COUNT', '500', 'TYPE', 'string')
local found = {}
for _, name in ipairs(page[2]) do
  local is_fence = string.sub(name, 1, 1) == '{' and string.sub(name, -3) == '}:f'
  local first = is_fence and 2 or 1
  if string.sub(name, first, first + #prefix - 1) == prefix then
    -- Far enough for an id, a token and a moment. What this user may not read is no lock of its own.
    local start = redis.pcall('GETRANGE', name, '0', '95')
    local is_readable = type(start) == 'string'
    if is_readable and (is_fence or string.match(start, '^%x+|%d+|%d+|') or start == '~shared' or start == '~permit') then
      found[#found + 1] = name
    end
  end
end
return {page[1], found}
