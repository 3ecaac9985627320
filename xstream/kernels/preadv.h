/* preadv by its number: C libraries before glibc 2.10 have no wrapper, and Linux headers of that time no name for it. */
#ifndef XSTREAM_PREADV_H
#define XSTREAM_PREADV_H

#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_preadv
#if defined(__x86_64__)
#define SYS_preadv 295
#elif defined(__i386__)
#define SYS_preadv 333
#endif
#endif

static ssize_t xs_preadv(int fd, const struct iovec *pieces, int count, int64_t offset) {
    /* The offset's low and high word. Where a word has 64 bits, Linux ignores the second. */
    return syscall(SYS_preadv, (long)fd, pieces, (long)count, (long)offset, (long)(offset >> 32));
}

#endif
