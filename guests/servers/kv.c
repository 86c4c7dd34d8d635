/* A key-value store that speaks HTTP/1.1 (RFC 9112), for clients that stay connected: keep-alive and pipelining.
 *
 *   kv [MiB (64)]     serves at descriptor 3, as sd_listen_fds(3) has it; prints "serving SLOTS slots" when it is ready
 *
 *   PUT /KEY          keeps the body; answers 200 and how often the key has been written, as a number
 *   GET /KEY          answers 200 and what is kept, with that number in ETag; 404 if there is nothing
 *   DELETE /KEY       answers 204, or 404
 *   GET /             answers how many keys there are
 *
 * Keys have up to 63 bytes, values up to 176. All lies in one table of the size given, every page of which is touched at the
 * start; writes go all over it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENER = 3, CLIENTS = 1000, KEY = 63, VALUE = 176, IN = 8192, OUT = 65536 };

struct slot {
    uint64_t version; /* 0: never used; the key stays when the value is deleted */
    uint8_t key_length, value_length, is_there;
    char key[KEY];
    char value[VALUE];
};

struct client {
    int fd;
    bool closes; /* when all is sent */
    size_t in_length, out_from, out_length;
    char in[IN], out[OUT];
};

static struct slot *slots;
static size_t slot_count, keys;
static struct client *clients[CLIENTS];
static size_t client_count;

static struct slot *find(const char *key, size_t length, bool make) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)key[i]) * 1099511628211u;
    for (size_t tried = 0; tried < slot_count; tried++) {
        struct slot *slot = &slots[(hash + tried) % slot_count];
        if (slot->version == 0) {
            if (!make) return NULL;
            slot->key_length = (uint8_t)length;
            memcpy(slot->key, key, length);
            return slot;
        }
        if (slot->key_length == length && memcmp(slot->key, key, length) == 0) return slot;
    }
    return NULL;
}

static void answer(struct client *client, const char *status, const char *headers, const char *body, size_t length) {
    char *to = client->out + client->out_length;
    size_t room = OUT - client->out_length;
    int head = snprintf(to, room, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%s%s\r\n", status, length, headers,
                        client->closes ? "Connection: close\r\n" : "");
    memcpy(to + head, body, length);
    client->out_length += (size_t)head + length;
}

static void refuse(struct client *client, const char *status) {
    client->closes = true;
    answer(client, status, "", "", 0);
}

static void serve(struct client *client, const char *method, const char *key, const char *body, size_t length) {
    char text[32], etag[48];
    size_t key_length = strlen(key);
    if (key_length == 0 && strcmp(method, "GET") == 0) {
        answer(client, "200 OK", "", text, (size_t)snprintf(text, sizeof text, "%zu\n", keys));
        return;
    }
    if (key_length == 0 || key_length > KEY || length > VALUE) {
        answer(client, key_length == 0 ? "404 Not Found" : "413 Content Too Large", "", "", 0);
        return;
    }
    bool put = strcmp(method, "PUT") == 0;
    struct slot *slot = find(key, key_length, put);
    if (put) {
        if (!slot) {
            answer(client, "507 Insufficient Storage", "", "", 0);
            return;
        }
        keys += !slot->is_there;
        slot->is_there = 1;
        slot->version++;
        slot->value_length = (uint8_t)length;
        memcpy(slot->value, body, length);
        answer(client, "200 OK", "", text, (size_t)snprintf(text, sizeof text, "%llu\n", (unsigned long long)slot->version));
    } else if (!slot || !slot->is_there) {
        answer(client, "404 Not Found", "", "", 0);
    } else if (strcmp(method, "GET") == 0) {
        snprintf(etag, sizeof etag, "ETag: \"%llu\"\r\n", (unsigned long long)slot->version);
        answer(client, "200 OK", etag, slot->value, slot->value_length);
    } else if (strcmp(method, "DELETE") == 0) {
        slot->is_there = 0;
        keys--;
        answer(client, "204 No Content", "", "", 0);
    } else {
        answer(client, "405 Method Not Allowed", "Allow: GET, PUT, DELETE\r\n", "", 0);
    }
}

/* One request, if all of it is there; how many bytes it has, 0 if it is not whole. */
static size_t request(struct client *client) {
    client->in[client->in_length] = 0;
    char *end = strstr(client->in, "\r\n\r\n");
    if (!end) {
        if (client->in_length == IN - 1) refuse(client, "431 Request Header Fields Too Large");
        return 0;
    }
    size_t head = (size_t)(end - client->in) + 4, length = 0;
    char method[8], path[80], version[16];
    if (sscanf(client->in, "%7[A-Z] /%79[^ ] %15[^\r]", method, path, version) != 3) {
        path[0] = 0;
        if (sscanf(client->in, "%7[A-Z] / %15[^\r]", method, version) != 2) {
            refuse(client, "400 Bad Request");
            return 0;
        }
    }
    bool closes = strcmp(version, "HTTP/1.1") != 0;
    for (char *line = strstr(client->in, "\r\n") + 2; line < end + 2; line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, "content-length:", 15) == 0) length = strtoul(line + 15, NULL, 10);
        if (strncasecmp(line, "connection: close", 17) == 0) closes = true;
        if (strncasecmp(line, "transfer-encoding:", 18) == 0) {
            refuse(client, "501 Not Implemented");
            return 0;
        }
    }
    if (length > IN - 1 - head) {
        refuse(client, "413 Content Too Large");
        return 0;
    }
    if (client->in_length < head + length) return 0;
    client->closes = closes;
    serve(client, method, path, client->in + head, length);
    return head + length;
}

/* Sends what is to be sent. Whether the client is still there. */
static bool send_out(struct client *client) {
    while (client->out_from < client->out_length) {
        ssize_t sent = write(client->fd, client->out + client->out_from, client->out_length - client->out_from);
        if (sent < 0) return errno == EAGAIN;
        client->out_from += (size_t)sent;
    }
    client->out_from = client->out_length = 0;
    return !client->closes;
}

/* Answers what has come, as far as there is room for answers. */
static void answer_all(struct client *client) {
    size_t done = 0, one;
    while (!client->closes && OUT - client->out_length > 1024) {
        char *rest = client->in + done;
        size_t length = client->in_length - done;
        memmove(client->in, rest, length);
        client->in_length = length;
        done = 0;
        if (length == 0 || (one = request(client)) == 0) break;
        done = one;
    }
    memmove(client->in, client->in + done, client->in_length - done);
    client->in_length -= done;
}

static bool happened(struct client *client, short events) {
    if (events & (POLLIN | POLLHUP | POLLERR)) {
        ssize_t got = read(client->fd, client->in + client->in_length, IN - 1 - client->in_length);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
        if (got > 0) client->in_length += (size_t)got;
    }
    answer_all(client);
    if (!send_out(client)) return false;
    /* What did not fit before. */
    answer_all(client);
    return send_out(client);
}

static void welcome(void) {
    int fd = accept(LISTENER, NULL, NULL);
    if (fd < 0) return;
    struct client *client = client_count < CLIENTS ? calloc(1, sizeof *client) : NULL;
    if (!client) {
        close(fd);
        return;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    client->fd = fd;
    clients[client_count++] = client;
}

int main(int argc, char **argv) {
    unsigned long mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
    slot_count = mib * (1024 * 1024 / sizeof *slots);
    slots = slot_count ? malloc(slot_count * sizeof *slots) : NULL;
    if (!slots) {
        fprintf(stderr, "kv: no room for a table of %lu MiB\n", mib);
        return 1;
    }
    memset(slots, 0, slot_count * sizeof *slots);
    for (size_t i = 0; i < slot_count; i++) slots[i].value[0] = (char)(i | 1);
    fcntl(LISTENER, F_SETFL, O_NONBLOCK);
    printf("serving %zu slots\n", slot_count);
    fflush(stdout);
    static struct pollfd polled[CLIENTS + 1];
    for (;;) {
        polled[0] = (struct pollfd){.fd = LISTENER, .events = POLLIN};
        for (size_t i = 0; i < client_count; i++) {
            bool sends = clients[i]->out_length > 0, reads = clients[i]->in_length < IN - 1 && !sends;
            polled[i + 1] = (struct pollfd){.fd = clients[i]->fd, .events = (short)((reads ? POLLIN : 0) | (sends ? POLLOUT : 0))};
        }
        if (poll(polled, client_count + 1, -1) < 0) {
            if (errno == EINTR) continue;
            perror("kv: poll");
            return 1;
        }
        for (size_t i = client_count; i-- > 0;) {
            if (polled[i + 1].revents == 0 || happened(clients[i], polled[i + 1].revents)) continue;
            close(clients[i]->fd);
            free(clients[i]);
            clients[i] = clients[--client_count];
        }
        if (polled[0].revents) welcome();
    }
}
