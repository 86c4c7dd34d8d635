-- Tables and table.sort with a Lua comparison: allocation, and C calling back into Lua. sort.lua [N] [ROUNDS]
local n, rounds = tonumber(arg[1]) or 50000, tonumber(arg[2]) or 3
local seed, check = 42, 0
local function random()
  seed = (seed * 1103515245 + 12345) & 0x7fffffff
  return seed
end
for round = 1, rounds do
  local items = {}
  for i = 1, n do items[i] = { key = random() % 10007, id = i } end
  table.sort(items, function(a, b)
    if a.key ~= b.key then return a.key < b.key end
    return a.id < b.id
  end)
  local groups = {}
  for i, item in ipairs(items) do
    check = (check * 31 + item.key * i + item.id) & 0x7fffffff
    groups[item.key] = (groups[item.key] or 0) + 1
  end
  local distinct = 0
  for _ in pairs(groups) do distinct = distinct + 1 end
  print(round, check, distinct)
end
