/* Pancake flips over all permutations: integer work on small arrays, unpredictable branches.
 * fannkuch [N]: prints the checksum and the largest number of flips for N pancakes (N <= 12). */
#include <stdio.h>
#include <stdlib.h>

#define MAX 12

static int flips_of(const int *permutation, int n) {
    int p[MAX], flips = 0;
    for (int i = 0; i < n; i++)
        p[i] = permutation[i];
    while (p[0] != 0) {
        for (int low = 0, high = p[0]; low < high; low++, high--) {
            int t = p[low];
            p[low] = p[high];
            p[high] = t;
        }
        flips++;
    }
    return flips;
}

/* The next permutation in the order of the benchmark; 0 when there is none. */
static int next(int *p, int *count, int n) {
    for (int r = 1; r < n; r++) {
        int first = p[0];
        for (int i = 0; i < r; i++)
            p[i] = p[i + 1];
        p[r] = first;
        if (--count[r] >= 0)
            return 1;
        count[r] = r;
    }
    return 0;
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 9;
    if (n < 2 || n > MAX) {
        fprintf(stderr, "fannkuch: %d is not a size between 2 and %d\n", n, MAX);
        return 2;
    }
    int p[MAX], count[MAX], most = 0;
    long checksum = 0;
    for (int i = 0; i < n; i++)
        p[i] = count[i] = i;
    for (long index = 0;; index++) {
        int flips = flips_of(p, n);
        if (flips > most)
            most = flips;
        checksum += index % 2 ? -flips : flips;
        if (!next(p, count, n))
            break;
    }
    printf("%ld\nPfannkuchen(%d) = %d\n", checksum, n, most);
    return 0;
}
