/*
 * slot.h - requests in shared memory, each carried out and answered once across deaths.
 *
 * A slot is one request: read from the device into it, given to libfuse, answered through it.
 *
 *   IDLE     free
 *   READING  a thread waits in read(2); a whole header in it means that the kernel sent it
 *   BEGUN    with a handler, which may keep the fuse_req_t and answer later from any thread
 *   SAVED    the answer lies in the slot and is about to be sent, or was
 *
 * A new server sends SAVED answers again (the kernel says ENOENT if it had them) and carries out
 * BEGUN requests again. Requests that would do harm twice keep a note of what was there before:
 * see slot_note. Repeatable requests (READ, GETATTR, ...) are answered without saving.
 *
 * Owns     the slots, the saved INIT. Pages are faulted in and locked, since a fault in the middle
 *          of the kernel's copy would lose the request when the server is killed there.
 * Threads  slot_run starts its own; slot_current belongs to the thread that runs the handler.
 * Poison   a request that SLOT_DEATHS_MAX servers died with is answered EIO and named in the log;
 *          SIGKILL comes from outside and counts much less. The death of a server that had not
 *          come to the request does not count: that one died of something else.
 */
#ifndef FS_SLOT_H
#define FS_SLOT_H

#include "fs/inode.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SLOT_DEATHS_MAX 3
#define SLOT_KILLS_MAX 30
#define SLOT_HEAD 4096 /* room in front of the payload of a WRITE */
#define SLOT_GRANTS 512 /* entries in one READDIRPLUS answer */
#define SLOT_REPLY (PATH_MAX + 64) /* a READLINK answer fits */

struct fuse_session;
struct super;

/* What a name meant: the file handle under it, len 0 for nothing there. */
struct slot_handle {
	int32_t type;
	uint32_t len;
	uint8_t bytes[INODE_HANDLE_MAX];
};

/* Taken before the backing call of a request that must not happen twice. */
struct slot_note {
	_Atomic uint32_t taken; /* written last */
	uint32_t word; /* a fact of the handler's own */
	struct slot_handle name, newname;
};

struct slot {
	_Atomic uint32_t state;
	uint32_t deaths, kills; /* of servers that had begun with it */
	_Atomic uint32_t tried; /* begun by the server that lives now, or died last */
	uint32_t reply_len; /* in reply, header included */
	uint32_t tail_off, tail_len; /* the rest of the answer, inside bytes */
	_Atomic uint64_t unique;
	/* lookups that this answer will tell the kernel about; changed by inode.c only */
	uint64_t ngrants, progress;
	uint64_t grants[SLOT_GRANTS];
	struct slot_note note;
	uint8_t reply[SLOT_REPLY];
};

struct slot_shared;
/* nrings: how many more for io_uring, which is then used if it can be had; 0 for none. */
size_t slot_shared_size(unsigned nslots, unsigned nrings, size_t max_write);
void slot_shared_init(
	struct slot_shared *sh, unsigned nslots, unsigned nrings, size_t max_write);
/* Whether requests come by ring, so that the mount cannot outlive its server. Any process that
 * has the memory. */
bool slot_by_ring(const struct slot_shared *sh);

/* Takes over what is in sh: locks the memory, undoes counts of answers never sent, feeds the
 * saved INIT to se, sends saved answers, queues what was begun. Before any thread. 0 or a
 * negative code of err.h, logged. */
int slot_start(struct slot_shared *sh, struct super *su, struct fuse_session *se);
/* Serves with that many threads until the kernel lets go of the mount (0) or the device fails
 * (a negative code of err.h). */
int slot_run(unsigned threads);
/* The custom_io writev of the session. */
ssize_t slot_writev(int fd, struct iovec *iov, int count, void *userdata);
ssize_t slot_read(int fd, void *buf, size_t len, void *userdata);

/* Inside a handler, on its own thread. */
struct slot *slot_current(void);
/* True if an earlier server may have done part of this already; then the note, if taken, holds. */
bool slot_again(void);
/* Around what may take long (a disk, a peer): another thread stands in meanwhile. */
void slot_wait_begin(void);
void slot_wait_end(void);
/* The request is copied aside and its slot is free when the handler returns: for an answer that
 * will come later from any thread. Nothing of the request may be used afterwards. */
void slot_park(void);
/* Writes the note; keeps the one of the first try. */
void slot_note_take(const struct slot_handle *name, const struct slot_handle *newname,
	uint32_t word);
/* Memory for a large answer, at most size bytes of it used; size is an output. */
void *slot_room(size_t *size_out);

#endif
