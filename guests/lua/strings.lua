-- Strings: building, matching, formatting, hashing in tables. strings.lua [N]
local n = tonumber(arg[1]) or 60000
local words, parts, check = {}, {}, 0
for i = 1, n do
  local word = string.format("w%05d-%s", i % 9973, ("x"):rep(i % 13))
  words[word] = (words[word] or 0) + 1
  parts[#parts + 1] = word:upper():gsub("W(%d+)", function(d) return "<" .. d:reverse() .. ">" end)
  if #parts == 1000 then
    local joined = table.concat(parts, ",")
    for digits, tail in joined:gmatch("<(%d+)>%-(X*)") do
      check = (check * 33 + tonumber(digits) + #tail) & 0x7fffffff
    end
    for k = 1, #joined, 97 do check = (check * 33 + joined:byte(k)) & 0x7fffffff end
    parts = {}
  end
end
local kinds = 0
for _ in pairs(words) do kinds = kinds + 1 end
print(check, kinds)
