/* Makes calls of the C library fail as the environment says; tests load it before it (LD_PRELOAD).
 *
 *   FAULT_READ=PATH:N     the Nth positioned read of that file and all later ones: EIO
 *   FAULT_WRITE=N:ERRNO   the Nth positioned write of a process and all later ones
 *   FAULT_FSYNC=ERRNO     every fsync
 *   FAULT_TMPFILE=ERRNO   every opening of a file without a name
 *   FAULT_MEMFD=ERRNO     every memfd_create
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int fails(const char *variable)
{
    const char *text = getenv(variable);
    if (!text)
        return 0;
    errno = atoi(text);
    return 1;
}

static int read_fails(int fd)
{
    static int reads;
    const char *text = getenv("FAULT_READ"), *colon = text ? strrchr(text, ':') : NULL;
    struct stat wanted, found;
    char path[4096];
    if (!colon || colon - text >= (long)sizeof path)
        return 0;
    memcpy(path, text, colon - text);
    path[colon - text] = 0;
    if (stat(path, &wanted) || fstat(fd, &found) || wanted.st_ino != found.st_ino || wanted.st_dev != found.st_dev)
        return 0;
    if (++reads < atoi(colon + 1))
        return 0;
    errno = EIO;
    return 1;
}

static int write_fails(void)
{
    static int writes;
    const char *text = getenv("FAULT_WRITE"), *colon = text ? strchr(text, ':') : NULL;
    if (!colon || ++writes < atoi(text))
        return 0;
    errno = atoi(colon + 1);
    return 1;
}

#define PREADV(name) \
    ssize_t name(int fd, const struct iovec *v, int n, off_t at) { return read_fails(fd) ? -1 : REAL(name)(fd, v, n, at); }
#define PREADV2(name) \
    ssize_t name(int fd, const struct iovec *v, int n, off_t at, int how) \
    { return read_fails(fd) ? -1 : REAL(name)(fd, v, n, at, how); }
PREADV(preadv)
PREADV(preadv64)
PREADV2(preadv2)
PREADV2(preadv64v2)
ssize_t pwrite(int fd, const void *p, size_t n, off_t at) { return write_fails() ? -1 : REAL(pwrite)(fd, p, n, at); }
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) { return write_fails() ? -1 : REAL(pwrite64)(fd, p, n, at); }
int fsync(int fd) { return fails("FAULT_FSYNC") ? -1 : REAL(fsync)(fd); }
int memfd_create(const char *name, unsigned flags) { return fails("FAULT_MEMFD") ? -1 : REAL(memfd_create)(name, flags); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list rest; \
        mode_t mode; \
        va_start(rest, flags); \
        mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if ((flags & O_TMPFILE) == O_TMPFILE && fails("FAULT_TMPFILE")) \
            return -1; \
        return REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
