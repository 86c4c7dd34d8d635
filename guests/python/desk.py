"""A clerk: each line of input is an order, which takes many steps of work, a line each, and goes into a ledger that stays open. desk.py LEDGER"""
import hashlib, json, re, sys

ledger = open(sys.argv[1], "w+")
for number, order in enumerate(sys.stdin, 1):
    words, digest = re.findall(r"\w+", order), hashlib.sha256()
    for step in range(1, 21):
        book = {f"{word}-{k}": [len(word) * k, k % step] for word in words for k in range(60)}
        digest.update(json.dumps(sorted(book.items(), key=lambda item: item[1][1]), sort_keys=True).encode())
        print(number, "step", step, digest.hexdigest()[:12], flush=True)
    ledger.write(f"{number} {order.strip()} {digest.hexdigest()}\n")
    at = ledger.tell()
    ledger.seek(0)
    lines = ledger.readlines()
    ledger.seek(at)
    print(number, "done,", len(lines), "in the ledger", flush=True)
