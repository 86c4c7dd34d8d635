/* Product of two square matrices of doubles, the plain triple loop.
 * matmul [N] [ROUNDS]: prints the trace and one element of the last product. */
#include <stdio.h>
#include <stdlib.h>

static void multiply(const double *a, const double *b, double *product, int n) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += a[i * n + k] * b[k * n + j];
            product[i * n + j] = sum;
        }
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 300;
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    if (n < 1 || n > 4000) {
        fprintf(stderr, "matmul: %d is not a size between 1 and 4000\n", n);
        return 2;
    }
    size_t size = (size_t)n * n;
    double *a = malloc(size * sizeof *a), *b = malloc(size * sizeof *b), *c = malloc(size * sizeof *c);
    if (!a || !b || !c) {
        fprintf(stderr, "matmul: no memory for three matrices of size %d\n", n);
        return 1;
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            a[i * n + j] = (double)(i - j) * (i + j) / n / n;
            b[i * n + j] = (double)(i - 2 * j) * (i + j + 1) / n / n;
        }
    double trace = 0;
    for (int round = 0; round < rounds; round++) {
        multiply(a, b, c, n);
        trace = 0;
        for (int i = 0; i < n; i++)
            trace += c[i * n + i];
        a[round % size] += 1e-3; /* each round differs, so none can be dropped */
    }
    printf("%.17g %.17g\n", trace, c[size / 2]);
    return 0;
}
