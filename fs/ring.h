/*
 * ring.h - requests by io_uring instead of by reads of the device (`transport: uring`).
 *
 * The kernel has one queue for each core that could ever be there, and gives a request to the queue
 * of the core that asks. Each queue has some entries, and here each entry has a thread, a ring and a
 * slot of its own: the thread sleeps in one system call that takes its last answer and brings the
 * next request. It stays on its core, so whoever asks and whoever answers share that core's caches, and no
 * other core is woken.
 *
 * FORGETs, and notifications to the kernel, still go by the device. So do all requests if the kernel
 * changes its mind, which it may until every queue has an entry.
 *
 * What is given up: a server's death. A request that a ring has brought dies with it.
 *
 * Owns     threads, rings, and the entries' heads; the slots are slot.c's.
 * Threads  ring_offer, ring_begin: the one that answers INIT; ring_answer: any.
 */
#ifndef FS_RING_H
#define FS_RING_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <sys/uio.h>

/* How many requests can be under way on this machine by rings, all cores together: the
 * number of slots to set aside. 0: there are too many cores. */
unsigned ring_entries(void);

/* An answer to INIT with the wish for rings in it, which libfuse 3.14 knows nothing of. */
struct ring_init {
	struct fuse_out_header head;
	struct fuse_init_out out;
	struct iovec iov[2];
};

/* asked is the INIT request, iov its answer: opens rings, and makes of it the one that also asks for
 * them. False if the kernel does not offer them or a ring cannot be opened; the reason is logged. */
bool ring_offer(int dev_fd, const struct fuse_in_header *asked, const struct iovec *iov,
	int count, struct ring_init *init_out);
/* That answer was sent (or not): registers the entries. True: from now on requests come by ring. */
bool ring_begin(bool sent);
/* Answers the request in slot i: the bytes taken. */
ssize_t ring_answer(int i, const struct iovec *iov, int count);
/* Returns when the kernel has let go of all entries. */
void ring_join(void);

#endif
