/* Preloaded: the program whose name is NOT_STARTED ends before it begins. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>
__attribute__((constructor)) static void leave(void) { const char *name = getenv("NOT_STARTED"); if (name && !strcmp(program_invocation_short_name, name)) _exit(1); }
