-- Refuses a token that is smaller than the largest that the resource has seen, which KEYS[1] remembers. ARGV[1] is the token.
-- Numbers are compared as text: a Lua number is exact to 2^53 only.
local function is_number(text)
  return type(text) == 'string' and #text <= 20 and string.match(text, '^[1-9]%d*$') ~= nil
end
local function is_larger(a, b)
  return #a > #b or (#a == #b and a > b)
end
if not is_number(ARGV[1]) then
  return redis.error_reply('BADTOKEN ARGV[1] is no fencing token')
end
local highest = redis.call('GET', KEYS[1])
if highest and not is_number(highest) then
  return redis.error_reply('BADFENCE the key of the fence has something else')
end
if highest and is_larger(highest, ARGV[1]) then
  return redis.error_reply('STALETOKEN ' .. ARGV[1] .. ' ' .. highest)
end
if highest ~= ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1])
end
