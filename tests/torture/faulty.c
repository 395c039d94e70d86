/* Faults of a disk, for LD_PRELOAD: from the n-th call on that writes below a folder, or at the n-th that reads there,
   the call fails with the error given. Counts calls of open, write, read, fsync, rename, mkdir and their kin. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NEITHER, WRITES, READS };

static char folder[PATH_MAX];
static int which = NEITHER, error_number, lasting;
static long fail_at;
static volatile long calls;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void faulty_arm(const char *path, int kind, long at, int number, int goes_on) {
    strncpy(folder, path, PATH_MAX - 1);
    fail_at = at, error_number = number, lasting = goes_on, calls = 0;
    which = kind;
}

void faulty_disarm(void) { which = NEITHER; }

long faulty_calls(void) { return calls; }

static int fails(const char *path, int kind) {
    if (which != kind || !path || strncmp(path, folder, strlen(folder))) return 0;
    pthread_mutex_lock(&lock);
    long number = calls++;
    pthread_mutex_unlock(&lock);
    if (number == fail_at || (lasting && fail_at >= 0 && number > fail_at)) {
        errno = error_number;
        return 1;
    }
    return 0;
}

static int fails_at(int descriptor, int kind) {
    char name[64], path[PATH_MAX];
    if (which != kind) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path, kind);
}

static int absolute(int directory, const char *path, char *out) {
    char name[64];
    if (path[0] == '/' || directory == AT_FDCWD) return snprintf(out, PATH_MAX, "%s", path);
    snprintf(name, sizeof name, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(name, out, PATH_MAX - 1);
    if (length < 0) return -1;
    return snprintf(out + length, PATH_MAX - length, "/%s", path);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OPENING(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR) ? WRITES : READS)

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        REAL(name);                                                        \
        va_list rest;                                                      \
        va_start(rest, flags);                                             \
        mode_t mode = va_arg(rest, mode_t);                                \
        va_end(rest);                                                      \
        return fails(path, OPENING(flags)) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                  \
    int name(int directory, const char *path, int flags, ...) {                       \
        REAL(name);                                                                   \
        char whole[PATH_MAX] = "";                                                    \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t mode = va_arg(rest, mode_t);                                           \
        va_end(rest);                                                                 \
        absolute(directory, path, whole);                                             \
        return fails(whole, OPENING(flags)) ? -1 : real(directory, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                   \
    FILE *name(const char *path, const char *mode) {                                  \
        REAL(name);                                                                   \
        return fails(path, strpbrk(mode, "wa+") ? WRITES : READS) ? NULL : real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define BY_DESCRIPTOR(type, name, kind, parameters, ...) \
    type name parameters {                               \
        REAL(name);                                      \
        return fails_at(fd, kind) ? -1 : real(__VA_ARGS__); \
    }
BY_DESCRIPTOR(ssize_t, write, WRITES, (int fd, const void *data, size_t n), fd, data, n)
BY_DESCRIPTOR(ssize_t, pwrite, WRITES, (int fd, const void *data, size_t n, off_t at), fd, data, n, at)
BY_DESCRIPTOR(ssize_t, pwrite64, WRITES, (int fd, const void *data, size_t n, off64_t at), fd, data, n, at)
BY_DESCRIPTOR(ssize_t, writev, WRITES, (int fd, const struct iovec *parts, int n), fd, parts, n)
BY_DESCRIPTOR(int, fsync, WRITES, (int fd), fd)
BY_DESCRIPTOR(int, fdatasync, WRITES, (int fd), fd)
BY_DESCRIPTOR(int, ftruncate, WRITES, (int fd, off_t n), fd, n)
BY_DESCRIPTOR(int, ftruncate64, WRITES, (int fd, off64_t n), fd, n)
BY_DESCRIPTOR(ssize_t, read, READS, (int fd, void *data, size_t n), fd, data, n)
BY_DESCRIPTOR(ssize_t, pread, READS, (int fd, void *data, size_t n, off_t at), fd, data, n, at)
BY_DESCRIPTOR(ssize_t, pread64, READS, (int fd, void *data, size_t n, off64_t at), fd, data, n, at)
BY_DESCRIPTOR(ssize_t, readv, READS, (int fd, const struct iovec *parts, int n), fd, parts, n)

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(fwrite);
    return fails_at(fileno(file), WRITES) ? 0 : real(data, size, n, file);
}

size_t fread(void *data, size_t size, size_t n, FILE *file) {
    REAL(fread);
    return fails_at(fileno(file), READS) ? 0 : real(data, size, n, file);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails(to, WRITES) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat);
    char whole[PATH_MAX] = "";
    absolute(b, to, whole);
    return fails(whole, WRITES) ? -1 : real(a, from, b, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails(path, WRITES) ? -1 : real(path, mode);
}

int mkdirat(int directory, const char *path, mode_t mode) {
    REAL(mkdirat);
    char whole[PATH_MAX] = "";
    absolute(directory, path, whole);
    return fails(whole, WRITES) ? -1 : real(directory, path, mode);
}
