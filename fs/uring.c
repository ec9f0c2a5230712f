/*
 * uring.c - the raw interface of io_uring, as much of it as one command at a time needs.
 *
 * One submission entry, two completion entries (the least there are), never more than one command
 * under way. So the index written to the submission ring is always 0, and a completion is always that
 * command's. The kernel moves the ring only inside io_uring_enter(2) of this thread
 * (SINGLE_ISSUER, DEFER_TASKRUN): a request wakes the thread from its wait and nothing else
 * interrupts it, which is what makes it safe to sleep in a handler.
 *
 * The device is a registered file and the ring a registered ring where the kernel lets us: that saves
 * two reference counts a call and means nothing else.
 */
#include "fs/uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(sizeof(struct uring_head) == 288, "as the kernel has it");
_Static_assert(offsetof(struct uring_head, commit_id) == 264, "as the kernel has it");
_Static_assert(sizeof(struct uring_cmd) == 24, "as the kernel has it");

/* An entry of a ring that was set up with IORING_SETUP_SQE128: the header of Linux 6.1 ends where
 * the command's own 80 bytes begin. */
struct sqe128 {
	uint8_t opcode, flags;
	uint16_t ioprio;
	int32_t fd;
	uint32_t cmd_op, pad1;
	uint64_t addr;
	uint32_t len, rw_flags;
	uint64_t user_data;
	uint16_t buf_index, personality;
	uint32_t file_index;
	uint8_t cmd[80];
};
_Static_assert(sizeof(struct sqe128) == 128, "as the kernel has it");

int
uring_open(struct uring *u, int dev_fd)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 |
					      IORING_SETUP_SINGLE_ISSUER |
					      IORING_SETUP_DEFER_TASKRUN };
	struct io_uring_rsrc_update update = { .offset = UINT32_MAX };
	size_t sq, cq;
	int err;

	memset(u, 0, sizeof(*u));
	u->rings = u->sqes = MAP_FAILED;
	u->fd = (int)syscall(SYS_io_uring_setup, 1, &p);
	if (u->fd < 0)
		return errno;
	if ((p.features & IORING_FEAT_SINGLE_MMAP) == 0) {
		uring_close(u);
		return ENOSYS;
	}
	sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
	cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	u->rings_size = sq > cq ? sq : cq;
	u->sqes_size = p.sq_entries * sizeof(struct sqe128);
	u->rings = mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
	u->sqes = mmap(NULL, u->sqes_size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQES);
	/* one command at a time: the file is number 0, or nothing would work */
	if (u->rings == MAP_FAILED || u->sqes == MAP_FAILED ||
		syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_FILES, &dev_fd,
			1) < 0) {
		err = errno;
		uring_close(u);
		return err;
	}
	/* A child that this process forks would hold the ring by these mappings, and the ring the
	 * device: if it asks the mount something, neither it nor the mount would ever end. */
	(void)madvise(u->rings, u->rings_size, MADV_DONTFORK);
	(void)madvise(u->sqes, u->sqes_size, MADV_DONTFORK);
	u->sq_tail = (void *)((uint8_t *)u->rings + p.sq_off.tail);
	u->cq_head = (void *)((uint8_t *)u->rings + p.cq_off.head);
	u->cq_tail = (void *)((uint8_t *)u->rings + p.cq_off.tail);
	u->cqes = (void *)((uint8_t *)u->rings + p.cq_off.cqes);
	u->cq_mask = p.cq_entries - 1;
	u->enter_fd = u->fd;
	update.data = (uint64_t)u->fd;
	if (syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_RING_FDS, &update,
		    1) == 1) {
		u->enter_fd = (int)update.offset;
		u->enter_flags = IORING_ENTER_REGISTERED_RING;
	}
	return 0;
}

void
uring_close(struct uring *u)
{
	if (u->rings != MAP_FAILED)
		munmap(u->rings, u->rings_size);
	if (u->sqes != MAP_FAILED)
		munmap(u->sqes, u->sqes_size);
	if (u->fd >= 0)
		close(u->fd);
	u->rings = u->sqes = MAP_FAILED;
	u->fd = -1;
}

/* Lays the command out; it goes to the kernel with the next enter(). */
static void
put(struct uring *u, uint32_t op, uint64_t commit_id)
{
	struct uring_cmd cmd = { .commit_id = commit_id, .qid = u->qid };
	struct sqe128 *sqe = u->sqes;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->cmd_op = op;
	if (op == URING_REGISTER) {
		sqe->addr = (uintptr_t)u->buffers;
		sqe->len = 2;
	}
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	atomic_fetch_add_explicit(u->sq_tail, 1, memory_order_release);
}

/* The result of the command, if it is complete. */
static bool
completed(struct uring *u, int *err_out)
{
	uint32_t head = atomic_load_explicit(u->cq_head, memory_order_relaxed);

	if (head == atomic_load_explicit(u->cq_tail, memory_order_acquire))
		return false;
	*err_out = -u->cqes[head & u->cq_mask].res;
	atomic_store_explicit(u->cq_head, head + 1, memory_order_release);
	return true;
}

/* Gives the kernel so many commands and waits for so many completions. */
static int
enter(struct uring *u, unsigned submit, unsigned wait)
{
	int err = 0;

	for (;;) {
		long n = syscall(SYS_io_uring_enter, u->enter_fd, submit, wait,
			u->enter_flags | (wait > 0 ? IORING_ENTER_GETEVENTS : 0), NULL,
			0);

		if (n < 0 && errno != EINTR && errno != EAGAIN && errno != EBUSY)
			return errno;
		if (n > 0)
			submit = 0; /* then a signal may have ended the wait */
		if (completed(u, &err) || (submit == 0 && wait == 0))
			return err;
	}
}

int
uring_register(struct uring *u, unsigned qid, struct uring_head *head, void *payload,
	size_t size)
{
	u->buffers[0] = (struct iovec){ head, sizeof(*head) };
	u->buffers[1] = (struct iovec){ payload, size };
	u->qid = (uint16_t)qid;
	put(u, URING_REGISTER, 0);
	return enter(u, 1, 0);
}

int
uring_wait(struct uring *u)
{
	return enter(u, 0, 1);
}

int
uring_commit(struct uring *u, uint64_t commit_id)
{
	put(u, URING_COMMIT_AND_FETCH, commit_id);
	return enter(u, 1, 1);
}
