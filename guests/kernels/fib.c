/* Fibonacci numbers by plain recursion: nothing but calls.
 * fib [N]: prints the N-th. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) static unsigned long long fib(int n) {
    return n < 2 ? (unsigned long long)n : fib(n - 1) + fib(n - 2);
}

int main(int argc, char **argv) {
    printf("%llu\n", fib(argc > 1 ? atoi(argv[1]) : 32));
    return 0;
}
