/* Preloaded: the program whose name is NOT_STARTED ends before it begins; with NOT_STARTED_ONCE, the first time alone, until that file is there. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void leave(void) {
    const char *name = getenv("NOT_STARTED"), *once = getenv("NOT_STARTED_ONCE");
    if (!name || strcmp(program_invocation_short_name, name)) return;
    if (!once || open(once, O_CREAT | O_EXCL, 0600) >= 0) _exit(1);
}
