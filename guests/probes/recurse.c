/* Recursion as deep as asked, or until the stack ends: the depth of the trap must not depend on where or how often it moved.
 * recurse [DEPTH] [EVERY]: goes DEPTH calls deep (0: until it traps), printing each EVERY-th depth on the way; prints a checksum on return.
 * Its frames use wasm locals only, not the stack in linear memory, so what ends is the engine's stack. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t depth, every;

__attribute__((noinline)) static void tell(uint64_t at) {
    printf("%llu\n", (unsigned long long)at);
    fflush(stdout);
}

__attribute__((noinline)) static uint64_t down(uint64_t at, uint64_t mixed) {
    if (every && at % every == 0)
        tell(at);
    if (at == depth)
        return mixed;
    return down(at + 1, mixed * 6364136223846793005ull + at) * 31 + mixed; /* used after the call: no tail call */
}

int main(int argc, char **argv) {
    depth = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    every = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    printf("%016llx\n", (unsigned long long)down(1, 1));
    return 0;
}
