/* Works on a directory the way programs do, so that open descriptors, offsets and names can be checked after a move.
 * files [DIR] [ROUNDS]: in DIR (a preopened directory; "." if not given), ROUNDS times: makes a directory, writes, seeks, reads back, appends,
 * renames, links, lists, truncates and removes; prints a digest per round and one at the end. Two files stay open throughout:
 * `journal` is appended to, and `ring` is read and written at one moving offset. They are left behind. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING 4096

static uint64_t digest = 0xcbf29ce484222325ull;

static void mix(const void *data, size_t length) {
    for (size_t i = 0; i < length; i++)
        digest = (digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3ull;
}

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "files: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(const char *path) {
    char *names[64];
    size_t count = 0;
    DIR *dir = opendir(path);
    check(dir != NULL, "opendir");
    for (struct dirent *entry; count < 64 && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            names[count++] = strdup(entry->d_name);
    check(closedir(dir) == 0, "closedir");
    qsort(names, count, sizeof *names, by_name); /* the order of a directory is the host's */
    for (size_t i = 0; i < count; i++) {
        mix(names[i], strlen(names[i]));
        free(names[i]);
    }
}

static void write_seek_read(const char *path, int round) {
    char text[256], back[256];
    int length = snprintf(text, sizeof text, "round %d of a file that is written, sought and read\n", round);
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
    check(fd >= 0, "open scratch file");
    for (int i = 0; i < 100; i++)
        check(write(fd, text, (size_t)length) == length, "write");
    check(lseek(fd, (off_t)length * 50, SEEK_SET) == (off_t)length * 50, "lseek");
    check(read(fd, back, (size_t)length) == length && memcmp(text, back, (size_t)length) == 0, "read back");
    check(pread(fd, back, 10, 3) == 10, "pread");
    mix(back, (size_t)length);
    check(ftruncate(fd, 1000) == 0, "ftruncate");
    struct stat status;
    check(fstat(fd, &status) == 0 && status.st_size == 1000, "fstat");
    check(close(fd) == 0, "close");
}

static void names(int round) {
    struct stat status;
    check(mkdir("work", 0755) == 0, "mkdir work");
    write_seek_read("work/first", round);
    check(rename("work/first", "work/second") == 0, "rename");
    check(stat("work/first", &status) != 0 && errno == ENOENT, "the old name is gone");
    check(link("work/second", "work/third") == 0, "link");
    check(symlink("second", "work/fourth") == 0, "symlink");
    char target[16];
    check(readlink("work/fourth", target, sizeof target) == 6, "readlink");
    mix(target, 6);
    list("work");
    check(unlink("work/second") == 0 && unlink("work/third") == 0 && unlink("work/fourth") == 0, "unlink");
    check(rmdir("work") == 0, "rmdir");
}

static void turn_ring(int ring) {
    uint8_t chunk[97];
    ssize_t got = read(ring, chunk, sizeof chunk);
    check(got >= 0, "read ring");
    mix(chunk, (size_t)got);
    for (size_t i = 0; i < sizeof chunk; i++)
        chunk[i] = (uint8_t)(digest >> (i % 8 * 8));
    if (lseek(ring, 0, SEEK_CUR) > RING)
        check(lseek(ring, 0, SEEK_SET) == 0, "rewind ring");
    check(write(ring, chunk, sizeof chunk) == sizeof chunk, "write ring");
}

int main(int argc, char **argv) {
    int rounds = argc > 2 ? atoi(argv[2]) : 20;
    check(chdir(argc > 1 ? argv[1] : ".") == 0, "chdir to the directory given");
    int ring = open("ring", O_CREAT | O_TRUNC | O_RDWR, 0644);
    FILE *journal = fopen("journal", "w");
    check(ring >= 0 && journal != NULL, "open the files that stay open");
    for (int round = 1; round <= rounds; round++) {
        names(round);
        turn_ring(ring);
        fprintf(journal, "%d %016llx\n", round, (unsigned long long)digest);
        check(fflush(journal) == 0, "flush journal");
        printf("%d %016llx\n", round, (unsigned long long)digest);
        fflush(stdout);
    }
    mix(&(long){ftell(journal)}, sizeof(long));
    check(fclose(journal) == 0 && close(ring) == 0, "close");
    printf("digest %016llx\n", (unsigned long long)digest);
    return 0;
}
