/* Bulk memory operations so large that one of them takes long: it too has to be stoppable.
 * fill [MIB] [ROUNDS]: fills and copies MIB mebibytes ROUNDS times (0: for ever), then prints a checksum. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    size_t half = (argc > 1 ? strtoul(argv[1], NULL, 10) : 512) * 1024 * 1024 / 2;
    long rounds = argc > 2 ? atol(argv[2]) : 4;
    uint8_t *memory = malloc(half * 2 + 1);
    uint32_t sum = 0;
    if (!memory) {
        fprintf(stderr, "fill: no memory for %zu bytes\n", half * 2);
        return 1;
    }
    printf("filling\n");
    fflush(stdout);
    for (long round = 0; rounds == 0 || round < rounds; round++) {
        __builtin_memset(memory, (int)(round & 255), half); /* memory.fill */
        __builtin_memcpy(memory + half, memory, half);      /* memory.copy */
        __builtin_memmove(memory + 1, memory, half);        /* memory.copy, overlapping */
        memory[half / 2] = (uint8_t)(round * 7);
        for (size_t at = 0; at < half * 2; at += 4099)
            sum = sum * 31 + memory[at];
    }
    printf("%08x\n", sum);
    return 0;
}
