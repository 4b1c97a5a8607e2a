/* Notes every block of memory above MALLOC_TRACE_BYTES that a process asks of the C library: to be preloaded.

   It wraps malloc and its relatives, and mmap and mremap where they make anonymous memory (CPython's arenas; what a
   memfd holds is no such block).  Each goes to the file MALLOC_TRACE_FOLDER/<pid>, followed by who asked: the native
   callers and the Python lines.  glibc's own use of mmap inside malloc does not come by here, so nothing counts twice.

   block <pid> <bytes> <function>
   native <library>:<symbol> ...
   <lines of _Py_DumpTraceback>
   end
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FRAMES 12

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_memalign)(size_t, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static void *(*real_mremap)(void *, size_t, size_t, int, ...);

static size_t threshold = (size_t)-1;
static char folder[512];
static __thread int inside;

/* dlsym itself asks for a little memory before there is anything to give it. */
static char early[4096];
static size_t early_used;

static void *early_block(size_t bytes)
{
    size_t start = early_used;
    early_used += (bytes + 15) & ~(size_t)15;
    return early_used <= sizeof early ? early + start : NULL;
}

static void find(void)
{
    if (real_mremap || inside)
        return;
    inside = 1;
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_memalign = dlsym(RTLD_NEXT, "memalign");
    *(void **)&real_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&real_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **)&real_mmap = dlsym(RTLD_NEXT, "mmap");
    *(void **)&real_mremap = dlsym(RTLD_NEXT, "mremap");
    inside = 0;
}

__attribute__((constructor)) static void start(void)
{
    void *frame[1];
    const char *where = getenv("MALLOC_TRACE_FOLDER"), *bytes = getenv("MALLOC_TRACE_BYTES");
    find();
    inside = 1;
    /* The first call loads a library. */
    backtrace(frame, 1);
    inside = 0;
    if (where && bytes && strlen(where) < sizeof folder - 32) {
        strcpy(folder, where);
        threshold = strtoul(bytes, NULL, 10);
    }
}

static void note_callers(int fd)
{
    void *frame[FRAMES];
    Dl_info info;
    int n = backtrace(frame, FRAMES);
    dprintf(fd, "native");
    /* The first two are note and the wrapper. */
    for (int i = 3; i < n; i++)
        if (dladdr(frame[i], &info) && info.dli_fname) {
            const char *name = strrchr(info.dli_fname, '/');
            dprintf(fd, " %s:%s", name ? name + 1 : info.dli_fname, info.dli_sname ? info.dli_sname : "?");
        }
    dprintf(fd, "\n");
}

static void note_python(int fd)
{
    void *(*state)(void) = dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
    void (*dump)(int, void *) = dlsym(RTLD_DEFAULT, "_Py_DumpTraceback");
    int (*ready)(void) = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    void *thread;
    if (!dump)
        dprintf(fd, "no _Py_DumpTraceback\n");
    else if (!ready())
        dprintf(fd, "no Python yet\n");
    else if ((thread = state()))
        dump(fd, thread);
}

static void note(size_t bytes, const char *function)
{
    if (bytes <= threshold || inside)
        return;
    int saved = errno, fd;
    char path[600];
    inside = 1;
    snprintf(path, sizeof path, "%s/%d", folder, (int)getpid());
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        dprintf(fd, "block %d %zu %s\n", (int)getpid(), bytes, function);
        note_callers(fd);
        note_python(fd);
        dprintf(fd, "end\n");
        close(fd);
    }
    inside = 0;
    errno = saved;
}

void *malloc(size_t bytes)
{
    find();
    if (!real_malloc)
        return early_block(bytes);
    note(bytes, "malloc");
    return real_malloc(bytes);
}

void *calloc(size_t n, size_t size)
{
    size_t bytes;
    find();
    if (!real_calloc)
        return early_block(n * size);
    if (!__builtin_mul_overflow(n, size, &bytes))
        note(bytes, "calloc");
    return real_calloc(n, size);
}

void *realloc(void *old, size_t bytes)
{
    find();
    if ((char *)old >= early && (char *)old < early + sizeof early) {
        size_t most = early + sizeof early - (char *)old;
        void *block = malloc(bytes);
        return block ? memcpy(block, old, bytes < most ? bytes : most) : NULL;
    }
    note(bytes, "realloc");
    return real_realloc(old, bytes);
}

void free(void *block)
{
    static void (*real_free)(void *);
    if ((char *)block >= early && (char *)block < early + sizeof early)
        return;
    if (!real_free)
        *(void **)&real_free = dlsym(RTLD_NEXT, "free");
    real_free(block);
}

void *memalign(size_t alignment, size_t bytes)
{
    find();
    note(bytes, "memalign");
    return real_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    find();
    note(bytes, "aligned_alloc");
    return real_aligned_alloc(alignment, bytes);
}

int posix_memalign(void **block, size_t alignment, size_t bytes)
{
    find();
    note(bytes, "posix_memalign");
    return real_posix_memalign(block, alignment, bytes);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    find();
    if (flags & MAP_ANONYMOUS)
        note(bytes, "mmap");
    return real_mmap(address, bytes, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    find();
    if (flags & MAP_ANONYMOUS)
        note(bytes, "mmap");
    return real_mmap(address, bytes, protection, flags, fd, offset);
}

void *mremap(void *old, size_t old_bytes, size_t bytes, int flags, ...)
{
    va_list rest;
    void *target = NULL;
    va_start(rest, flags);
    if (flags & MREMAP_FIXED)
        target = va_arg(rest, void *);
    va_end(rest);
    find();
    if (bytes > old_bytes)
        note(bytes, "mremap");
    return real_mremap(old, old_bytes, bytes, flags, target);
}
