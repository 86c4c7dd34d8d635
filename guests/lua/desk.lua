-- A clerk: each line of input is an order, which takes many steps of work, a line each, and goes into a ledger that stays open. desk.lua LEDGER
local ledger = assert(io.open(arg[1], "w+"))
local number = 0
for order in io.lines() do
  number = number + 1
  local check = 0
  for step = 1, 20 do
    local book = {}
    for word in order:gmatch("%w+") do
      for k = 1, 200 do book[#book + 1] = ("%s-%d"):format(word, k * 7919 % 211) end
    end
    table.sort(book, function(a, b) return a:reverse() < b:reverse() end)
    for _, text in ipairs(book) do
      for k = 1, #text do check = (check * 31 + text:byte(k)) & 0xffffffff end
    end
    print(("%d step %d %08x"):format(number, step, check))
    io.stdout:flush()
  end
  ledger:write(("%d %s %08x\n"):format(number, order, check))
  local at = ledger:seek()
  ledger:seek("set", 0)
  local lines = 0
  for _ in ledger:lines() do lines = lines + 1 end
  ledger:seek("set", at)
  print(number .. " done, " .. lines .. " in the ledger")
  io.stdout:flush()
end
