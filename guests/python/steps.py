"""Work of several sorts in numbered steps, a line each: for watching a program on its way. steps.py [STEPS]"""
import collections, hashlib, json, random, re, sys

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
rng = random.Random(7)
memory = collections.OrderedDict()
digest = hashlib.sha256()


known = {}


def partitions(n, largest):
    """How many ways there are to write n as a sum of parts up to `largest`."""
    if n == 0:
        return 1
    if (n, largest) not in known:
        count = 0
        for part in range(1, min(n, largest) + 1):
            count += partitions(n - part, part)
        known[n, largest] = count
    return known[n, largest]


def queens(n, row=0, columns=frozenset(), up=frozenset(), down=frozenset()):
    if row == n:
        yield ()
        return
    for c in range(n):
        if c not in columns and row + c not in up and row - c not in down:
            for rest in queens(n, row + 1, columns | {c}, up | {row + c}, down | {row - c}):
                yield (c, *rest)


class Account:
    def __init__(self, name):
        self.name, self.entries = name, []

    def __lt__(self, other):
        return (sum(self.entries), self.name) < (sum(other.entries), other.name)


accounts = [Account(f"account {i}") for i in range(50)]
for step in range(1, steps + 1):
    known.clear()
    for _ in range(500):
        rng.choice(accounts).entries.append(rng.randint(-100, 100))
    text = json.dumps({a.name: sum(a.entries) for a in sorted(accounts)[:10]})
    memory[step] = [len(word) for word in re.findall(r"\w+ (\d+)", text)] + [partitions(30 + step % 20, 12)]
    try:
        if step % 5 == 0:
            raise ValueError(step)
        digest.update(repr(sum(1 for _ in queens(6))).encode())
    except ValueError as error:
        digest.update(str(error).encode())
    digest.update(text.encode() + repr(memory[step]).encode())
    print(f"{step:3} {digest.hexdigest()[:16]}", flush=True)
