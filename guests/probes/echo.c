/* Copies lines from standard input to standard output, numbered and flushed one by one, until the input ends.
 * echo: its last line tells how many lines and bytes there were. */
#include <stdio.h>
#include <string.h>

int main(void) {
    char line[4096];
    unsigned long lines = 0, bytes = 0;
    while (fgets(line, sizeof line, stdin)) {
        size_t length = strlen(line);
        bytes += length;
        printf("%lu: %s%s", ++lines, line, length && line[length - 1] == '\n' ? "" : "\n");
        fflush(stdout);
    }
    if (ferror(stdin)) {
        perror("echo: standard input");
        return 1;
    }
    printf("%lu lines, %lu bytes\n", lines, bytes);
    return 0;
}
