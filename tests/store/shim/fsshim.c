/* A shim for LD_PRELOAD that watches, and on demand breaks, what a process does to the files below some folders.
 *
 * FSSHIM_WATCH   absolute folders without symbolic links, separated by colons
 * FSSHIM_TRACE   a file outside them: each operation that succeeded is appended to it with its data
 *
 * A record is one struct record and two byte strings, appended by one system call while a lock is held around the
 * operation itself, so the order of the records is the order of the operations for all threads of the process.
 * Files whose name ends in -shm (mapped by SQLite, rebuilt when missing) are not recorded, but faults reach them.
 * Not seen: stdio, mmap, dup, fallocate, copy_file_range. The reader of the trace compares its last state with the
 * folders, so that nothing of this kind goes unnoticed.
 *
 * fsshim_fault(kind, at, error, sticky) lets the at-th operation of a kind from now on fail, and all later ones if
 * sticky; the error 0 is a write or read that does only half. fsshim_fired() counts the failures since then, fsshim_seen() the operations
 * of that kind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CLOSE, WRITE, SYNC, TRUNCATE, RENAME, LINK, UNLINK, MKDIR, RMDIR, CHMOD };
enum { F_NONE = 0, F_WRITE, F_SYNC, F_OPEN, F_READ, F_NAME, F_NEVER };
enum { UNWATCHED = 0, QUIET, WATCHED };
#define MAX_FD 65536
#define MAX_ROOTS 16
#define EXPORT __attribute__((visibility("default")))

struct record {
    uint32_t kind, pid, fd, mode; /* mode: permission bits, or flags of open in the upper half */
    int64_t offset;               /* of a write; the new size of a truncation */
    uint32_t first, second;       /* lengths of the byte strings that follow: a path or data, and a second path */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char fds[MAX_FD];
static char roots[MAX_ROOTS][PATH_MAX];
static int root_count, trace = -1;
static int fault_kind, fault_error, fault_sticky;
static long fault_at, fault_seen, fault_fired;

__attribute__((constructor)) static void start(void) {
    const char *watch = getenv("FSSHIM_WATCH"), *path = getenv("FSSHIM_TRACE");
    while (watch && *watch && root_count < MAX_ROOTS) {
        size_t length = strcspn(watch, ":");
        if (length && length < PATH_MAX) {
            memcpy(roots[root_count], watch, length);
            roots[root_count++][length] = 0;
        }
        watch += length + (watch[length] == ':');
    }
    if (!path || !*path) return;
    int low = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    trace = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 900);
    if (trace < 0) trace = low;
    else syscall(SYS_close, low);
    if (trace < 0) abort();
}

EXPORT void fsshim_fault(int kind, long at, int error, int sticky) {
    pthread_mutex_lock(&lock);
    fault_kind = kind, fault_at = at, fault_error = error, fault_sticky = sticky;
    fault_seen = fault_fired = 0;
    pthread_mutex_unlock(&lock);
}

EXPORT long fsshim_fired(void) { return fault_fired; }
EXPORT long fsshim_seen(void) { return fault_seen; }

/* The absolute path, its folder resolved, in out; whether and how it is watched. */
static int resolve(int folder, const char *path, char *out) {
    char joined[PATH_MAX * 2], base[PATH_MAX];
    if (!root_count || !path) return UNWATCHED;
    if (path[0] == '/' || folder == AT_FDCWD) {
        snprintf(joined, sizeof joined, "%s", path);
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return UNWATCHED;
        base[length] = 0;
        snprintf(joined, sizeof joined, "%s/%s", base, path);
    }
    size_t length = strlen(joined);
    while (length > 1 && joined[length - 1] == '/') joined[--length] = 0;
    char *slash = strrchr(joined, '/');
    const char *name = slash ? slash + 1 : joined;
    if (!strcmp(name, ".") || !strcmp(name, "..")) {
        if (!realpath(joined, out)) return UNWATCHED;
    } else {
        char parent[PATH_MAX * 2];
        if (slash) snprintf(parent, sizeof parent, "%.*s", (int)(slash == joined ? 1 : slash - joined), joined);
        else snprintf(parent, sizeof parent, ".");
        if (!realpath(parent, base)) return UNWATCHED;
        if (strlen(base) + strlen(name) + 2 > PATH_MAX) return UNWATCHED;
        stpcpy(stpcpy(stpcpy(out, strcmp(base, "/") ? base : ""), "/"), name);
    }
    length = strlen(out);
    for (int i = 0; i < root_count; i++) {
        size_t root = strlen(roots[i]);
        if (strncmp(out, roots[i], root) || (out[root] && out[root] != '/')) continue;
        return length > 4 && !strcmp(out + length - 4, "-shm") ? QUIET : WATCHED;
    }
    return UNWATCHED;
}

static int state_of(int fd) { return fd >= 0 && fd < MAX_FD ? fds[fd] : UNWATCHED; }

static void note(int kind, int fd, unsigned mode, int64_t offset, const void *first, size_t length, const char *second) {
    if (trace < 0) return;
    int saved = errno;
    struct record record = {(uint32_t)kind, (uint32_t)getpid(), (uint32_t)fd, mode, offset, (uint32_t)length,
                            (uint32_t)(second ? strlen(second) : 0)};
    struct iovec parts[3] = {{&record, sizeof record}, {(void *)first, length}, {(void *)second, record.second}};
    size_t total = sizeof record + length + record.second;
    if (syscall(SYS_writev, trace, parts, 3) != (long)total) abort(); /* A trace with a gap proves nothing. */
    errno = saved;
}

/* Whether the operation that is about to run must fail; *half where it must do only half of its work. */
static int broken(int kind, int *half) {
    if (fault_kind != kind) return 0;
    long seen = ++fault_seen;
    if (seen < fault_at || (seen > fault_at && !fault_sticky)) return 0;
    if (!fault_error && !half) return 0;
    fault_fired++;
    if (half) *half = !fault_error;
    errno = fault_error;
    return 1;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    int watched = resolve(folder, path, full);
    if (!watched) {
        int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
        if (fd >= 0 && fd < MAX_FD) fds[fd] = UNWATCHED;
        return fd;
    }
    pthread_mutex_lock(&lock);
    int fd = -1;
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (!(writes && broken(F_OPEN, NULL))) fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0 && fd < MAX_FD) {
        struct stat status;
        fds[fd] = (unsigned char)watched;
        if (fstat(fd, &status)) abort();
        unsigned bits = status.st_mode & 07777;
        unsigned marks = ((flags & O_TRUNC) ? 1u : 0) | (S_ISDIR(status.st_mode) ? 2u : 0);
        if (watched == WATCHED) note(OPEN, fd, bits | marks << 16, 0, full, strlen(full), NULL);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list list; \
        va_start(list, last); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

EXPORT int open(const char *path, int flags, ...) { MODE(flags, flags) return opened(AT_FDCWD, path, flags, mode); }
EXPORT int open64(const char *path, int flags, ...) {
    MODE(flags, flags) return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
EXPORT int openat(int folder, const char *path, int flags, ...) {
    MODE(flags, flags) return opened(folder, path, flags, mode);
}
EXPORT int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags, flags) return opened(folder, path, flags | O_LARGEFILE, mode);
}
EXPORT int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags | O_LARGEFILE, 0); }
EXPORT int __openat_2(int folder, const char *path, int flags) { return opened(folder, path, flags, 0); }
EXPORT int __openat64_2(int folder, const char *path, int flags) { return opened(folder, path, flags | O_LARGEFILE, 0); }
EXPORT int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

EXPORT int close(int fd) {
    if (!state_of(fd)) return (int)syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    if (fds[fd] == WATCHED) note(CLOSE, fd, 0, 0, NULL, 0, NULL);
    fds[fd] = UNWATCHED;
    int result = (int)syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* A write of one part at offset, or at the file's own place where that is negative. */
static ssize_t written(int fd, const void *data, size_t size, off_t offset) {
    int half = 0;
    if (!state_of(fd)) {
        return offset < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, offset);
    }
    pthread_mutex_lock(&lock);
    ssize_t result = -1;
    if (!broken(F_WRITE, &half) || half) {
        if (half && size > 1) size /= 2;
        result = offset < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, offset);
        if (result >= 0 && fds[fd] == WATCHED) {
            /* With O_APPEND too the place after the write tells where it went. */
            int64_t place = offset < 0 ? syscall(SYS_lseek, fd, 0, SEEK_CUR) - result : offset;
            note(WRITE, fd, 0, place, data, (size_t)result, NULL);
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static ssize_t written_parts(int fd, const struct iovec *parts, int count, off_t offset) {
    if (!state_of(fd)) {
        return offset < 0 ? syscall(SYS_writev, fd, parts, count)
                          : syscall(SYS_pwritev, fd, parts, count, (long)offset, 0L);
    }
    size_t size = 0, done = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    char *joined = malloc(size + 1);
    if (!joined) abort();
    for (int i = 0; i < count; done += parts[i++].iov_len) memcpy(joined + done, parts[i].iov_base, parts[i].iov_len);
    ssize_t result = written(fd, joined, size, offset);
    free(joined);
    return result;
}

EXPORT ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1); }
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) { return written_parts(fd, parts, count, -1); }
EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return written_parts(fd, parts, count, offset);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    return written_parts(fd, parts, count, offset);
}

static ssize_t was_read(int fd, void *data, size_t size, off_t offset) {
    int half = 0;
    if (state_of(fd)) {
        pthread_mutex_lock(&lock);
        int failed = broken(F_READ, &half);
        pthread_mutex_unlock(&lock);
        if (failed && !half) return -1;
        if (half && size > 1) size /= 2;
    }
    return offset < 0 ? syscall(SYS_read, fd, data, size) : syscall(SYS_pread64, fd, data, size, offset);
}

EXPORT ssize_t read(int fd, void *data, size_t size) { return was_read(fd, data, size, -1); }
EXPORT ssize_t pread(int fd, void *data, size_t size, off_t offset) { return was_read(fd, data, size, offset); }
EXPORT ssize_t pread64(int fd, void *data, size_t size, off_t offset) { return was_read(fd, data, size, offset); }

/* An operation on an open file that has no data: a fault, the call, a record. */
#define ON_FILE(fault, call, ...) \
    if (!state_of(fd)) return call; \
    pthread_mutex_lock(&lock); \
    int result = broken(fault, NULL) ? -1 : call; \
    if (!result && fds[fd] == WATCHED) note(__VA_ARGS__); \
    pthread_mutex_unlock(&lock); \
    return result;

EXPORT int fsync(int fd) { ON_FILE(F_SYNC, (int)syscall(SYS_fsync, fd), SYNC, fd, 0, 0, NULL, 0, NULL) }
EXPORT int fdatasync(int fd) { ON_FILE(F_SYNC, (int)syscall(SYS_fdatasync, fd), SYNC, fd, 0, 0, NULL, 0, NULL) }
EXPORT int ftruncate(int fd, off_t size) {
    ON_FILE(F_WRITE, (int)syscall(SYS_ftruncate, fd, size), TRUNCATE, fd, 0, size, NULL, 0, NULL)
}
EXPORT int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }
EXPORT int fchmod(int fd, mode_t mode) {
    ON_FILE(F_NEVER, (int)syscall(SYS_fchmod, fd, mode), CHMOD, fd, mode & 07777, 0, NULL, 0, NULL)
}

/* An operation on names. The second path may be missing. */
#define ON_NAMES(kind, mode, dir1, path1, dir2, path2, call) \
    char first[PATH_MAX], second[PATH_MAX] = ""; \
    int watched1 = resolve(dir1, path1, first), watched2 = resolve(dir2, path2, second); \
    if (!watched1 && !watched2) return call; \
    pthread_mutex_lock(&lock); \
    int result = broken(F_NAME, NULL) ? -1 : call; \
    if (!result && (watched1 == WATCHED || watched2 == WATCHED)) note(kind, 0, mode, 0, first, strlen(first), second); \
    pthread_mutex_unlock(&lock); \
    return result;

EXPORT int renameat2(int dir1, const char *old, int dir2, const char *new, unsigned flags) {
    ON_NAMES(RENAME, flags, dir1, old, dir2, new, (int)syscall(SYS_renameat2, dir1, old, dir2, new, flags))
}
EXPORT int renameat(int dir1, const char *old, int dir2, const char *new) { return renameat2(dir1, old, dir2, new, 0); }
EXPORT int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
EXPORT int linkat(int dir1, const char *old, int dir2, const char *new, int flags) {
    ON_NAMES(LINK, 0, dir1, old, dir2, new, (int)syscall(SYS_linkat, dir1, old, dir2, new, flags))
}
EXPORT int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
EXPORT int unlinkat(int folder, const char *path, int flags) {
    const char *none = NULL;
    ON_NAMES((flags & AT_REMOVEDIR) ? RMDIR : UNLINK, 0, folder, path, AT_FDCWD, none,
             (int)syscall(SYS_unlinkat, folder, path, flags))
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
EXPORT int mkdirat(int folder, const char *path, mode_t mode) {
    const char *none = NULL;
    ON_NAMES(MKDIR, mode & 07777, folder, path, AT_FDCWD, none, (int)syscall(SYS_mkdirat, folder, path, mode))
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
EXPORT int chmod(const char *path, mode_t mode) {
    const char *none = NULL;
    ON_NAMES(CHMOD, mode & 07777, AT_FDCWD, path, AT_FDCWD, none, (int)syscall(SYS_fchmodat, AT_FDCWD, path, mode))
}
