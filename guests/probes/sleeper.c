/* Sleeps, and says what its two clocks saw: for time-outs and clocks that must survive a move.
 * sleeper [COUNT] [MS]: sleeps COUNT times for MS milliseconds; after each, prints whether monotonic time advanced by at least MS,
 * whether wall time went back, and on standard error (it varies) by how many microseconds. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int64_t micros(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now)) {
        perror("sleeper: clock_gettime");
        exit(1);
    }
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 3, ms = argc > 2 ? atoi(argv[2]) : 100;
    for (int i = 1; i <= count; i++) {
        int64_t before = micros(CLOCK_MONOTONIC), wall = micros(CLOCK_REALTIME);
        struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
        if (nanosleep(&time, NULL)) {
            perror("sleeper: nanosleep");
            return 1;
        }
        int64_t slept = micros(CLOCK_MONOTONIC) - before;
        printf("%d %s %s\n", i, slept >= ms * 1000LL ? "slept" : "woke early", micros(CLOCK_REALTIME) < wall ? "wall went back" : "wall ok");
        fflush(stdout);
        fprintf(stderr, "%lld us\n", (long long)slept);
    }
    return 0;
}
