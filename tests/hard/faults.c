/* Preloaded into a process, this counts what the process and all that it forks change below one
 * folder: files opened to be written, writes, renames, deletes, new folders. At a chosen change it
 * sends a signal, a write being half done by then; or from there on the disk is full.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, SIGNAL, FULL };            /* what happens */
enum { ITSELF, LEADER, GROUP };          /* to whom, of the process group */
enum { GO_ON, HALF, REFUSED };           /* what the caller does */
enum { PLACES = 8192, LONGEST = 320 };

static struct state {
    long count, at;
    int what, signal, whom;
    char root[LONGEST];
    char places[PLACES][LONGEST];
} *shared;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_arm(const char *root, long at, int what, int signal, int whom) {
    memset(shared->places, 0, sizeof shared->places);
    shared->count = 0;
    shared->at = at, shared->what = what, shared->signal = signal, shared->whom = whom;
    snprintf(shared->root, LONGEST, "%s", root);
}

long faults_count(void) { return shared->count; }

const char *faults_place(long number) { return shared->places[number % PLACES]; }

static void send(void) {
    pid_t whom = shared->whom == GROUP ? 0 : shared->whom == LEADER ? getpgrp() : getpid();
    kill(whom, shared->signal);
}

/* Count a change of `path`; `grows` tells whether it takes room on the disk. */
static int change(const char *kind, const char *path, int grows) {
    size_t length = strlen(shared->root);
    if (!length || strncmp(path, shared->root, length)) return GO_ON;
    long number = __atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
    snprintf(shared->places[number % PLACES], LONGEST, "%s %s", kind, path + length);
    if (shared->what == FULL && (number == shared->at || (grows && number > shared->at)))
        return number == shared->at && grows ? HALF : REFUSED;
    if (shared->what != SIGNAL || number != shared->at) return GO_ON;
    if (grows) return HALF;
    send();
    return GO_ON;
}

static int full(void) { return errno = ENOSPC, -1; }

/* The same where nothing can be half done. */
static int whole_change(const char *kind, const char *path, int grows) {
    int found = change(kind, path, grows);
    if (found == HALF && shared->what == SIGNAL) return send(), GO_ON;
    return found == GO_ON ? GO_ON : REFUSED;
}

static const char *path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, LONGEST - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static const char *path_at(int folder, const char *name, char *path) {
    if (*name == '/' || folder == AT_FDCWD) return name;
    path_of(folder, path);
    size_t length = strlen(path);
    snprintf(path + length, LONGEST - length, "/%s", name);
    return path;
}

#define WRITING (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
#define MODE(flags)                                                                                \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode = va_arg(more, mode_t);                                                               \
        va_end(more);                                                                              \
    }

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        MODE(flags)                                                                                \
        if ((flags & WRITING) && whole_change("open", path, 1) == REFUSED) return full();          \
        return REAL(name)(path, flags, mode);                                                      \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int folder, const char *path, int flags, ...) {                                       \
        char buffer[LONGEST * 2];                                                                  \
        MODE(flags)                                                                                \
        if ((flags & WRITING) && whole_change("open", path_at(folder, path, buffer), 1) == REFUSED)\
            return full();                                                                         \
        return REAL(name)(folder, path, flags, mode);                                              \
    }
OPENAT(openat)
OPENAT(openat64)

/* The first half of a write, then the fault, then what is left of it. */
static ssize_t half(int fd, const char *data, size_t size) {
    ssize_t first = size / 2 ? REAL(write)(fd, data, size / 2) : 0;
    if (shared->what == FULL) return first ? first : full();
    send();
    ssize_t rest = REAL(write)(fd, data + first, size - first);
    return rest < 0 ? rest : first + rest;
}

ssize_t write(int fd, const void *data, size_t size) {
    char buffer[LONGEST];
    int found = fd > 2 ? change("write", path_of(fd, buffer), 1) : GO_ON;
    if (found == REFUSED) return full();
    return found == HALF ? half(fd, data, size) : REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *data, int count) {
    char buffer[LONGEST];
    return whole_change("write", path_of(fd, buffer), 1) ? full() : REAL(writev)(fd, data, count);
}

#define ON_FD(kind, grows, type, name, declared, ...)                                              \
    type name declared {                                                                           \
        char buffer[LONGEST];                                                                      \
        if (whole_change(kind, path_of(fd, buffer), grows)) return full();                         \
        return REAL(name)(__VA_ARGS__);                                                            \
    }
ON_FD("write", 1, ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), fd, data, n, at)
ON_FD("write", 1, ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), fd, data, n, at)
ON_FD("write", 1, int, ftruncate, (int fd, off_t size), fd, size)
ON_FD("write", 1, int, ftruncate64, (int fd, off64_t size), fd, size)
ON_FD("fsync", 0, int, fsync, (int fd), fd)

#define ON_PATH(kind, grows, folder, path, name, declared, ...)                                    \
    int name declared {                                                                            \
        char buffer[LONGEST * 2];                                                                  \
        if (whole_change(kind, path_at(folder, path, buffer), grows)) return full();               \
        return REAL(name)(__VA_ARGS__);                                                            \
    }
ON_PATH("rename", 0, AT_FDCWD, new, rename, (const char *old, const char *new), old, new)
ON_PATH("rename", 0, in, new, renameat, (int from, const char *old, int in, const char *new), from, old, in, new)
ON_PATH("delete", 0, AT_FDCWD, path, unlink, (const char *path), path)
ON_PATH("delete", 0, in, path, unlinkat, (int in, const char *path, int flags), in, path, flags)
ON_PATH("delete", 0, AT_FDCWD, path, rmdir, (const char *path), path)
ON_PATH("folder", 1, AT_FDCWD, path, mkdir, (const char *path, mode_t mode), path, mode)
ON_PATH("folder", 1, in, path, mkdirat, (int in, const char *path, mode_t mode), in, path, mode)
