/* The first program of a virtual machine that serves: loads the modules in /modules, in the order of their names, gives eth0
 * the address of its first argument, listens at the port of its second, and becomes /kv with the rest of its arguments, which
 * finds the listening socket at descriptor 3. */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/module.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void check(long done, const char *what) {
    if (done >= 0) return;
    perror(what);
    for (;;) pause();
}

static void load_modules(void) {
    struct dirent **entries;
    int count = scandir("/modules", &entries, NULL, alphasort);
    check(count, "/modules");
    for (int i = 0; i < count; i++) {
        char path[300];
        if (entries[i]->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/modules/%s", entries[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        check(syscall(SYS_finit_module, fd, "", MODULE_INIT_COMPRESSED_FILE), path);
        close(fd);
    }
}

static void configure(const char *address) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in *to = (struct sockaddr_in *)&request.ifr_addr;
    to->sin_family = AF_INET;
    inet_pton(AF_INET, address, &to->sin_addr);
    check(ioctl(fd, SIOCSIFADDR, &request), "address");
    inet_pton(AF_INET, "255.255.255.0", &to->sin_addr);
    check(ioctl(fd, SIOCSIFNETMASK, &request), "mask");
    check(ioctl(fd, SIOCGIFFLAGS, &request), "flags");
    request.ifr_flags |= IFF_UP;
    check(ioctl(fd, SIOCSIFFLAGS, &request), "up");
    close(fd);
}

int main(int argc, char **argv) {
    check(argc < 4 ? -1 : 0, "address, port, arguments of /kv");
    load_modules();
    configure(argv[1]);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[2]))};
    check(bind(fd, (struct sockaddr *)&at, sizeof at), "bind");
    check(listen(fd, 1024), "listen");
    if (fd != 3) {
        check(dup2(fd, 3), "descriptor 3");
        close(fd);
    }
    argv[2] = "kv";
    execv("/kv", argv + 2);
    check(-1, "/kv");
}
