/* Counts aloud, with work in between: a program whose progress can be seen from outside.
 * count [N] [WORK] [EXIT]: prints 1 to N, each flushed at once, after WORK rounds of a mixing loop that goes into what is printed; exits with EXIT. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    long n = argc > 1 ? atol(argv[1]) : 10, work = argc > 2 ? atol(argv[2]) : 1000000;
    uint32_t mixed = 1;
    for (long i = 1; i <= n; i++) {
        for (long j = 0; j < work; j++)
            mixed = (mixed ^ (uint32_t)j) * 2654435761u + (mixed >> 15);
        printf("%ld %08x\n", i, mixed);
        fflush(stdout);
    }
    return argc > 3 ? atoi(argv[3]) : 0;
}
