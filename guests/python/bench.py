"""Plain computing in the interpreter: loops, attributes, dictionaries, strings, exceptions. bench.py [ROUNDS]"""
import sys

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10


class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def turned(self):
        return Point(-self.y, self.x)


def sieve(limit):
    composite = bytearray(limit)
    primes = []
    for n in range(2, limit):
        if not composite[n]:
            primes.append(n)
            composite[n * n :: n] = b"\1" * len(range(n * n, limit, n))
    return primes


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def matrix(n):
    a = [[(i * j) % 7 for j in range(n)] for i in range(n)]
    return sum(sum(x * y for x, y in zip(row, column)) for row in a for column in zip(*a))


check = 0
for round in range(rounds):
    point = Point(round, 1)
    for _ in range(20000):
        point = point.turned()
    counts = {}
    for prime in sieve(30000):
        counts[prime % 10] = counts.get(prime % 10, 0) + 1
    text = ",".join(f"{k}={v:05d}" for k, v in sorted(counts.items()))
    for part in text.split(","):
        try:
            check += int(part.split("=")[1]) // (point.x + round % 3)
        except ZeroDivisionError:
            check += 1
    check = (check * 31 + fib(17) + matrix(30) + hash(len(text))) % 1000000007
print(check)
