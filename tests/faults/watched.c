/* Preloaded into a run: writes down, in the order in which they are done, what makes its files durable and what names them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void note(const char *what, const char *path, const char *other) {
    static int log = -1;
    if (log < 0) log = open(getenv("QUIVER_WATCHED"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    dprintf(log, "%s\t%s\t%s\n", what, path, other);
}

int fsync(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    note("sync", path, "");
    return REAL(fsync)(file);
}

int rename(const char *from, const char *to) { note("name", from, to); return REAL(rename)(from, to); }
int link(const char *from, const char *to) { note("name", from, to); return REAL(link)(from, to); }
int linkat(int f, const char *from, int t, const char *to, int flags) { note("name", from, to); return REAL(linkat)(f, from, t, to, flags); }
