/* System calls that move bytes between descriptors; by number, because old C libraries have no wrapper for them. */
#ifndef XSTREAM_TRANSFER_H
#define XSTREAM_TRANSFER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XS_OTHER 0
#define XS_PIPE 1
#define XS_FILE 2

#ifndef SYNC_FILE_RANGE_WRITE
#define SYNC_FILE_RANGE_WRITE 2
#endif
#ifndef F_SETPIPE_SZ
#define F_SETPIPE_SZ 1031
#define F_GETPIPE_SZ 1032
#endif

static int xs_kind(int fd) {
    struct stat about;
    if (fstat(fd, &about))
        return XS_OTHER;
    return S_ISFIFO(about.st_mode) ? XS_PIPE : S_ISREG(about.st_mode) ? XS_FILE : XS_OTHER;
}

static int64_t xs_splice(int source, int sink, size_t size) {
    return syscall(SYS_splice, source, NULL, sink, NULL, size, 0);
}

static int64_t xs_copy_range(int source, int sink, size_t size) {
#ifdef SYS_copy_file_range
    return syscall(SYS_copy_file_range, source, NULL, sink, NULL, size, 0);
#else
    (void)source, (void)sink, (void)size;
    errno = ENOSYS;
    return -1;
#endif
}

static int64_t xs_sendfile(int source, int sink, size_t size) {
    return sendfile(sink, source, NULL, size);
}

/* Start writing the bytes before a file's position to disk. Best effort. */
static void xs_begin_writing(int fd, int64_t size) {
#if defined(SYS_sync_file_range) && defined(__LP64__)
    off_t end = lseek(fd, 0, SEEK_CUR);
    if (end >= size)
        syscall(SYS_sync_file_range, fd, end - size, size, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd;
    (void)size;
#endif
}

static int64_t xs_read(int fd, void *into, size_t size) {
    return read(fd, into, size);
}

static int64_t xs_write(int fd, const void *data, size_t size) {
    return write(fd, data, size);
}

static int64_t xs_wait(int fd, int writing) {
    struct pollfd one;
    one.fd = fd;
    one.events = writing ? POLLOUT : POLLIN;
    return poll(&one, 1, -1);
}

static int xs_widen(int fd, int size) {
    int now;
    if (xs_kind(fd) != XS_PIPE)
        return 0;
    now = fcntl(fd, F_GETPIPE_SZ);
    if (now < size)
        fcntl(fd, F_SETPIPE_SZ, size);
    now = fcntl(fd, F_GETPIPE_SZ);
    return now < 0 ? 0 : now;
}

/* Whether an error means that a call doesn't support this pair of descriptors, rather than that it failed. */
static int xs_refused(int error) {
    return error == EINVAL || error == ENOSYS || error == EXDEV || error == EOPNOTSUPP || error == EPERM ||
           error == EBADF;
}

#endif
