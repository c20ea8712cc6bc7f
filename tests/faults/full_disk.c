/* Preloaded into a run: from the n-th call on that needs room in a folder, the disk is full. A write first takes half. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[4096];
static long left = -1; /* calls that still find room; -1: any number */
static int torn;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void fill_disk(const char *path, long calls) {
    snprintf(folder, sizeof folder, "%s", path);
    left = calls;
}

long calls_left(void) { return left; }

static int under(const char *path) { return left >= 0 && path && !strncmp(path, folder, strlen(folder)); }

static int full(void) {
    if (left > 0) {
        left--;
        return 0;
    }
    errno = ENOSPC;
    return 1;
}

static int held(int file) {
    char link[64], path[4096];
    if (left < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return under(path);
}

ssize_t write(int file, const void *data, size_t size) {
    if (held(file) && full()) {
        if (torn || size < 2) return -1;
        torn = 1;
        size /= 2;
    }
    return REAL(write)(file, data, size);
}

int fsync(int file) { return held(file) && full() ? -1 : REAL(fsync)(file); }

static int opened(int where, const char *path, int flags, mode_t mode) {
    return (flags & O_CREAT) && under(path) && full() ? -1 : REAL(openat)(where, path, flags, mode);
}

#define MODE                              \
    va_list more;                         \
    va_start(more, flags);                \
    mode_t mode = va_arg(more, mode_t);   \
    va_end(more);

int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }

int link(const char *from, const char *to) { return under(to) && full() ? -1 : REAL(link)(from, to); }
int linkat(int f, const char *from, int t, const char *to, int flags) { return under(to) && full() ? -1 : REAL(linkat)(f, from, t, to, flags); }
int rename(const char *from, const char *to) { return under(to) && full() ? -1 : REAL(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return under(path) && full() ? -1 : REAL(mkdir)(path, mode); }
