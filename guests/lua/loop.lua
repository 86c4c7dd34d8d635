-- One long numeric loop in the interpreter. loop.lua [N]
local n = tonumber(arg[1]) or 20000000
local sum, x = 0, 1
for i = 1, n do
  x = (x * 1103515245 + 12345) & 0x7fffffff
  if x % 3 == 0 then sum = sum + (x & 255) else sum = sum ~ i end
end
print(sum, x)
