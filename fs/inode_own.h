/*
 * inode_own.h - what inode.c and inode_*.c share: the private half of an entry.
 *
 * Only the inode_*.c include it. Everything in it is guarded by inode_tab.lock.
 */
#ifndef FS_INODE_OWN_H
#define FS_INODE_OWN_H

#include "fs/inode.h"
#include "fs/slot.h"

#include <pthread.h>

/* For each entry of the shared table, under the same number. All zero is the empty state. */
struct inode_own {
	uint32_t chain; /* next in the hash chain */
	uint32_t holds;
	_Atomic int pin; /* descriptor + 1 */
	uint32_t cached[2]; /* read or path, read-write: number in the cache + 1 */
};

struct inode_table {
	pthread_mutex_t lock;
	int root_fd;
	struct inode_own *own;
};

extern struct inode_table inode_tab;

/* In the shared memory: a file that replay is changing in place. */
enum { INODE_CLAIMS_MAX = 256 };
struct inode_claim {
	struct slot_handle handle; /* len 0: none */
	uint32_t left; /* until replay has done again what a server that died left */
};
struct inode_claims {
	uint32_t whole; /* 0, as in new memory: any index may be half done */
	struct inode_claim list[INODE_CLAIMS_MAX];
};

/* What an entry leaves behind when it goes; closed outside the lock. */
struct inode_dead {
	uint64_t nodeid; /* to be unpinned, or 0 */
	int pin;
	int fds[2];
	unsigned nfds;
};

/* clang-format off */
#define INODE_DEAD_NONE { 0, -1, { -1, -1 }, 0 }
/* clang-format on */

struct inode_own *inode_own(const struct inode *ino);
/* A descriptor of the file: from its pin if it has one, else by handle. -1 with errno. */
int inode_open_handle(const struct inode *ino, int flags);

/* The entry with that handle, or NULL. Lock held. */
struct inode *inode_find(const struct slot_handle *h);
/* Until replay has no claim on it. Lock held, given up meanwhile. */
void inode_claim_wait(const struct slot_handle *h, enum place_kind kind);
/* With the list in the shared memory; what is in it was left by a server that died. */
void inode_claims_start(struct inode_claims *in);

int inode_fd_start(unsigned max_fds);
/* The entry goes: its cached descriptors are given up. Lock held. */
void inode_fd_disown(struct inode *ino, struct inode_dead *dead);

#endif
