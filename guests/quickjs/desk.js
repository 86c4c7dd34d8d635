// A clerk: each line of input is an order, which takes many steps of work, a line each, and goes into a ledger that stays open. desk.js LEDGER
import * as std from "qjs:std";
const ledger = std.open(scriptArgs[1], "w+");
for (let number = 1, order; (order = std.in.getline()) !== null; number++) {
  const words = order.match(/\w+/g) ?? [];
  let check = 0;
  for (let step = 1; step <= 20; step++) {
    const book = words.flatMap((word) => Array.from({ length: 150 }, (_, k) => `${word}-${(k * 7919) % 211}`));
    book.sort((a, b) => (a.length - b.length) || (a < b ? 1 : a > b ? -1 : 0));
    for (const letter of JSON.stringify(book)) check = (check * 31 + letter.charCodeAt(0)) >>> 0;
    std.out.puts(`${number} step ${step} ${check.toString(16)}\n`);
    std.out.flush();
  }
  ledger.puts(`${number} ${order} ${check}\n`);
  const at = ledger.tell();
  ledger.seek(0, std.SEEK_SET);
  let lines = 0;
  while (ledger.getline() !== null) lines++;
  ledger.seek(at, std.SEEK_SET);
  std.out.puts(`${number} done, ${lines} in the ledger\n`);
  std.out.flush();
}
ledger.close();
std.exit(0);
