-- What `sterna demo` runs: work of several sorts. It prints each line as soon as it is known,
-- keeps a log in a file that stays open if it was given a directory, and prints the same in every run.
local log = io.open("/work/log.txt", "w")
local lines = 0

local function say(...)
  local text = string.format(...)
  print(text)
  io.stdout:flush()
  lines = lines + 1
  if log then log:write(("%4d %s\n"):format(lines, text)) end
end

local function mandelbrot(rows, columns)
  say("The Mandelbrot set")
  local shades = " .:-=+*#%@"
  for row = 0, rows - 1 do
    local line = {}
    for column = 0, columns - 1 do
      local cr, ci = -2.2 + 3.2 * column / columns, -1.2 + 2.4 * row / rows
      local r, i, n = 0.0, 0.0, 0
      while n < 8000 and r * r + i * i < 4 do
        r, i, n = r * r - i * i + cr, 2 * r * i + ci, n + 1
      end
      local shade = n == 8000 and #shades or n % (#shades - 1) + 1
      line[#line + 1] = shades:sub(shade, shade)
    end
    say("  %s", table.concat(line))
  end
end

-- The spigot of Rabinowitz and Wagon: digits one after the other, out of a table that changes all the time.
local function pi(digits, per_line)
  say("Digits of pi")
  local length = digits * 10 // 3 + 1
  local remainders, nines, held, text = {}, 0, nil, {}
  for k = 1, length do remainders[k] = 2 end
  local function out(digit)
    text[#text + 1] = digit
    if #text == per_line then
      say("  %s", table.concat(text))
      text = {}
    end
  end
  for _ = 1, digits + 2 do
    local carry = 0
    for k = length, 1, -1 do
      local x = 10 * remainders[k] + carry * k
      remainders[k] = x % (2 * k - 1)
      carry = x // (2 * k - 1)
    end
    remainders[1] = carry % 10
    local digit = carry // 10
    if digit == 9 then
      nines = nines + 1
    else
      if held then out(held + digit // 10) end
      for _ = 1, nines do out(digit == 10 and 0 or 9) end
      held, nines = digit % 10, 0
    end
  end
end

local function queens(largest)
  say("Ways to place queens")
  local function place(n, row, columns, up, down)
    if row > n then return 1 end
    local found = 0
    for c = 1, n do
      if not (columns[c] or up[row + c] or down[row - c]) then
        columns[c], up[row + c], down[row - c] = true, true, true
        found = found + place(n, row + 1, columns, up, down)
        columns[c], up[row + c], down[row - c] = nil, nil, nil
      end
    end
    return found
  end
  for n = 1, largest do
    say("  %2d on a board of %d by %d: %d", n, n, n, place(n, 1, {}, {}, {}))
  end
end

local function words(rounds)
  say("Words that a machine made up, the most frequent first")
  local seed, count = 7, {}
  local function random(below)
    seed = seed * 1103515245 + 12345 & 0x7fffffff
    return seed // 65536 % below
  end
  for round = 1, rounds do
    for _ = 1, 4000 do
      local word = {}
      for k = 1, 1 + random(2) do
        local consonant, vowel = random(6) + 1, random(3) + 1
        word[k] = ("strnlm"):sub(consonant, consonant) .. ("eau"):sub(vowel, vowel)
      end
      word = table.concat(word):gsub("tata", "tat"):upper()
      count[word] = (count[word] or 0) + 1
    end
    local list = {}
    for word in pairs(count) do list[#list + 1] = word end
    table.sort(list, function(a, b)
      if count[a] ~= count[b] then return count[a] > count[b] end
      return a < b
    end)
    say("  round %2d, %3d words: %s %d, %s %d, %s %d", round, #list, list[1], count[list[1]], list[2], count[list[2]],
      list[3], count[list[3]])
  end
end

mandelbrot(30, 64)
pi(2400, 80)
queens(9)
words(4000)
if not log then return end
log:close()
local check, length = 0, 0
for line in io.lines("/work/log.txt") do
  for k = 1, #line do check = (check * 31 + line:byte(k)) & 0xffffffff end
  length = length + 1
end
print(("The log has %d lines, their checksum is %08x."):format(length, check))
