// Recursive Fibonacci. fib.js [N]
const n = Number(scriptArgs[1] ?? 27);
const fib = (k) => (k < 2 ? k : fib(k - 1) + fib(k - 2));
print(fib(n));
