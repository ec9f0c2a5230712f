/*
 * inode.h - what the kernel knows of the spool: one entry for each file it holds a count on.
 *
 * A file is known by its file handle, not by an open descriptor, so a million known files cost
 * a hundred bytes each and the table outlives the server process.
 *
 * Owns     the table in the shared memory (facts only, no locks, no pointers); in private memory
 *          an index by handle, a bounded cache of descriptors, and the descriptors ("pins") of
 *          files that have no name any more. Private memory is rebuilt after a death.
 * Threads  any.
 * Locks    one mutex inside, held for memory only, never around a system call that can block.
 * Errors   handlers' habit: 0 or a positive errno.
 * Lifetime an entry stays while the kernel counts lookups on it, while it has marks, or between
 *          inode_hold and inode_drop. A handler may use the inode of its own request freely.
 */
#ifndef FS_INODE_H
#define FS_INODE_H

#include "meta/place.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define INODE_HANDLE_MAX \
	40 /* bytes of a file handle; a filesystem with longer ones is refused */
#define INODE_ROOT 1

/* One entry of the shared table. Written only under the mutex, except marks. */
struct inode {
	_Atomic uint32_t valid; /* written last: the rest is complete */
	uint32_t reuse; /* high half of the nodeid, so a number never comes back */
	uint64_t nlookup; /* what the kernel will FORGET */
	uint64_t
		parent; /* nodeid of the folder as of the last lookup, link or rename; 0 none */
	_Atomic uint32_t
		marks; /* capture's; an entry with marks is kept through FORGET */
	uint32_t place_uid; /* use inode_place */
	uint8_t place_kind, place_which;
	uint8_t type; /* file type: S_IFMT bits >> 12 */
	uint8_t handle_len;
	int32_t handle_type;
	uint8_t handle[INODE_HANDLE_MAX];
};

/* The shape of the table, decided by the supervisor before the first server. */
struct inode_shared;
size_t inode_shared_size(uint32_t max_entries);
void inode_shared_init(struct inode_shared *sh, uint32_t max_entries);

/* Starts on the spool behind root_fd (kept, not owned) with the table at sh, which may be one
 * that an earlier server left: then its entries are taken over. max_fds bounds the cache of
 * descriptors. 0, or a negative code of err.h, logged: no file handles on this filesystem, or
 * out of memory. */
int inode_start(struct inode_shared *sh, int root_fd, unsigned max_fds);
void inode_stop(void);

uint64_t inode_nodeid(const struct inode *ino);
struct place inode_place(const struct inode *ino);
mode_t inode_type(const struct inode *ino); /* S_IFREG, S_IFDIR, ... */
/* The entry of a nodeid, or NULL if there is none (any more). */
struct inode *inode_get(uint64_t nodeid);
/* The folder that ino was last seen in, or NULL. */
struct inode *inode_parent(const struct inode *ino);
/* Keeps the entry for a thread that outlives its request. Not carried over a death: use marks. */
void inode_hold(struct inode *ino);
void inode_drop(struct inode *ino);

/* Marks are set before the write that they announce. Clearing the last one of an entry that the
 * kernel has forgotten frees the entry: do not touch ino afterwards without a hold. */
void inode_mark(struct inode *ino, uint32_t bits);
void inode_unmark(struct inode *ino, uint32_t bits);
/* Every entry with marks, e.g. after a death; fn may unmark. No lock is held around fn. */
void
inode_each_marked(void (*fn)(struct inode *ino, uint32_t marks, void *arg), void *arg);

/* Descriptors, counted and cached. INODE_ANY serves for fstat, *at calls and readdir; it is an
 * O_PATH one for what is neither file nor folder. Give each back with inode_fd_put. */
enum inode_fd_mode { INODE_ANY, INODE_READ, INODE_WRITE };
int inode_fd(struct inode *ino, enum inode_fd_mode mode, int *fd_out);
void inode_fd_put(struct inode *ino, int fd);

/* The path of a folder relative to the spool, without a leading slash; "" for the root. ENOENT
 * if it was removed, ENAMETOOLONG if it does not fit. */
int inode_path(struct inode *dir, char *buf, size_t size);

/* What lies under name in dir, without counting a lookup: its attributes and, if the kernel
 * knows it, its entry (else NULL). ENOENT if nothing. */
int inode_peek(struct inode *dir, const char *name, struct stat *st_out,
	struct inode **ino_out);

/* Entries in use, and their bound. */
uint32_t inode_count(void);

#endif
