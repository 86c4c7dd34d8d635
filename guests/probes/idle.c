/* Does nothing for ever, in as little memory as a program can: for counting how many of them a machine holds.
 * idle: waits for a byte on standard input and leaves when it comes or the input ends.
 * idle sleep: sleeps, over and over, for an hour at a time. No C library start-up buffers: WASI is called directly. */
#include <stdint.h>
#include <wasi/api.h>

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        __wasi_subscription_t hour = {0};
        hour.u.tag = __WASI_EVENTTYPE_CLOCK;
        hour.u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
        hour.u.u.clock.timeout = 3600ull * 1000 * 1000 * 1000;
        for (;;) {
            __wasi_event_t event;
            __wasi_size_t events;
            if (__wasi_poll_oneoff(&hour, &event, 1, &events))
                return 1;
        }
    }
    uint8_t byte;
    __wasi_iovec_t into = {&byte, 1};
    __wasi_size_t read;
    return __wasi_fd_read(0, &into, 1, &read) ? 1 : 0;
}
