/*
 * uring.h - one io_uring with room for one command: a FUSE queue entry of one thread.
 *
 * The kernel puts a request of the connection into the entry's two buffers and completes the
 * command; the next command takes the answer from the same buffers and waits for the next
 * request. Both are one system call.
 *
 * The program is built with headers that are older than the interface, so what it needs of that
 * is declared here, from include/uapi/linux/fuse.h of Linux 6.14 (FUSE 7.42) and
 * Documentation/filesystems/fuse/fuse-io-uring.rst. No library: three system calls.
 *
 * Owns     a descriptor and two mappings; the buffers are the caller's and must stay until
 *          uring_close.
 * Threads  a ring belongs to the thread that opened it.
 */
#ifndef FS_URING_H
#define FS_URING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct io_uring_cqe;

/* Bit 41 of INIT's flags, so bit 9 of flags2, in the request and the answer. */
#define URING_INIT_FLAG2 (1u << 9)

enum { URING_HEADER = 128, URING_OP = 128 };

/* The first of an entry's buffers. */
struct uring_head {
	_Alignas(8) uint8_t in_out[URING_HEADER]; /* fuse_in_header; fuse_out_header */
	_Alignas(
		8) uint8_t op_in[URING_OP]; /* what is special to the kind of request */
	uint64_t flags;
	uint64_t commit_id; /* names the request in its answer */
	uint32_t payload_size; /* bytes used of the second buffer, both ways */
	uint32_t padding;
	uint64_t reserved;
};

struct uring_cmd {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid; /* the core */
	uint8_t padding[6];
};

enum { URING_REGISTER = 1, URING_COMMIT_AND_FETCH = 2 };

struct uring {
	int fd; /* -1: closed */
	int enter_fd; /* what io_uring_enter(2) is given, and with which flag */
	unsigned enter_flags;
	void *rings, *sqes;
	size_t rings_size, sqes_size;
	/* inside rings */
	_Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
	struct io_uring_cqe *cqes;
	uint32_t cq_mask;
	struct iovec buffers[2];
	uint16_t qid;
};

/* A ring of the calling thread for /dev/fuse. 0 or a positive errno (ENOSYS, EPERM where it is
 * forbidden). */
int uring_open(struct uring *u, int dev_fd);
void uring_close(struct uring *u);

/* Hands the entry over; the session must have been initialised. 0 or a positive errno; the kernel
 * has a request for it when uring_wait returns 0. */
int uring_register(struct uring *u, unsigned qid, struct uring_head *head,
	void *payload, size_t size);
int uring_wait(struct uring *u);
/* Answers the request commit_id with what lies in the buffers, and waits for the next one. 0 or a
 * positive errno: ENOTCONN and the like when the mount has ended. */
int uring_commit(struct uring *u, uint64_t commit_id);

#endif
