// Strings, regular expressions, JSON, generators, exceptions and promises. strings.js [N]
const n = Number(scriptArgs[1] ?? 3000);
let check = 0;
const mix = (text) => { for (let i = 0; i < text.length; i++) check = (Math.imul(check, 31) + text.charCodeAt(i)) | 0; };
function* words(count) {
  for (let i = 0; i < count; i++) yield `w${String(i % 997).padStart(5, "0")}-${"x".repeat(i % 13)}`;
}
for (const word of words(n)) {
  mix(word.toUpperCase().replace(/W(\d+)/, (_, digits) => `<${[...digits].reverse().join("")}>`));
  mix(JSON.stringify(JSON.parse(JSON.stringify({ word, letters: [...new Set(word)].sort() }))));
  try {
    if (word.endsWith("xxx")) throw new RangeError(word);
  } catch (error) {
    mix(error.message);
  }
}
(async () => {
  for (let i = 0; i < 100; i++) mix(await Promise.resolve(String(i)));
  print(check);
})();
