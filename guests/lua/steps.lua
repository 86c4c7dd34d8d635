-- Work of several sorts in numbered steps, a line each: for watching a program on its way. steps.lua [STEPS]
local steps = tonumber(arg[1]) or 40
local memory, check = {}, 0

local function ackermann(m, n)
  if m == 0 then return n + 1 end
  if n == 0 then return ackermann(m - 1, 1) end
  return ackermann(m - 1, ackermann(m, n - 1))
end

local function queens(n, row, columns, up, down)
  if row > n then return 1 end
  local found = 0
  for c = 1, n do
    if not (columns[c] or up[row + c] or down[row - c]) then
      columns[c], up[row + c], down[row - c] = true, true, true
      found = found + queens(n, row + 1, columns, up, down)
      columns[c], up[row + c], down[row - c] = nil, nil, nil
    end
  end
  return found
end

for step = 1, steps do
  memory[#memory + 1] = ("%d:%d"):format(step, ackermann(2, 60 + step % 7))
  memory[#memory + 1] = ("%d:%d"):format(step, queens(7, 1, {}, {}, {}))
  table.sort(memory, function(a, b) return a:reverse() < b:reverse() end)
  for _, text in ipairs(memory) do
    for k = 1, #text do check = (check * 31 + text:byte(k)) & 0xffffffff end
  end
  print(("%3d %08x"):format(step, check))
  io.stdout:flush()
end
