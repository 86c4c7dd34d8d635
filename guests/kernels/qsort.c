/* The C library's qsort with a comparison by pointer: an indirect call per step.
 * qsort [COUNT] [ROUNDS]: sorts COUNT numbers ROUNDS times, each time shuffled anew, and prints a checksum of their order. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int by_low_bits(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a << 16 | *(const uint32_t *)a >> 16, y = *(const uint32_t *)b << 16 | *(const uint32_t *)b >> 16;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 200000;
    int rounds = argc > 2 ? atoi(argv[2]) : 5;
    uint32_t *numbers = malloc((count ? count : 1) * sizeof *numbers), seed = 12345;
    uint64_t checksum = 0;
    if (!numbers) {
        fprintf(stderr, "qsort: no memory for %zu numbers\n", count);
        return 1;
    }
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < count; i++)
            numbers[i] = seed = seed * 1664525 + 1013904223;
        qsort(numbers, count, sizeof *numbers, round % 2 ? by_low_bits : ascending);
        for (size_t i = 0; i < count; i++)
            checksum = checksum * 31 + numbers[i];
    }
    printf("%016llx\n", (unsigned long long)checksum);
    return 0;
}
