// Objects, arrays, Map and sort with a comparison in JavaScript. sort.js [N] [ROUNDS]
const n = Number(scriptArgs[1] ?? 20000), rounds = Number(scriptArgs[2] ?? 3);
let seed = 42, check = 0;
const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff);
for (let round = 1; round <= rounds; round++) {
  const items = Array.from({ length: n }, (_, id) => ({ key: random() % 10007, id }));
  items.sort((a, b) => a.key - b.key || a.id - b.id);
  const groups = new Map();
  items.forEach(({ key, id }, i) => {
    check = (Math.imul(check, 31) + Math.imul(key, i) + id) | 0;
    groups.set(key, (groups.get(key) ?? 0) + 1);
  });
  print(round, check, groups.size);
}
