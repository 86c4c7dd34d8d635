/* An endless loop without a host call in it: it can only be stopped from outside.
 * spin: says so, then spins. */
#include <stdint.h>
#include <stdio.h>

int main(void) {
    printf("spinning\n");
    fflush(stdout);
    volatile uint32_t turns = 0;
    for (;;)
        turns++;
}
