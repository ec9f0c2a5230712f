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
	/* the folder as of the last lookup, link or rename; 0 for none */
	_Atomic uint64_t parent;
	_Atomic uint64_t place; /* use inode_place */
	_Atomic uint32_t
		marks; /* capture's; with any the entry is kept through FORGET */
	uint8_t type; /* file type: S_IFMT bits >> 12 */
	uint8_t handle_len;
	int32_t handle_type;
	uint8_t handle[INODE_HANDLE_MAX];
};

/* The shape of the table, decided by the supervisor before the first server. */
struct inode_shared;
size_t inode_shared_size(uint32_t max_entries);
void inode_shared_init(struct inode_shared *sh, uint32_t max_entries);

struct slot;
struct slot_handle;
struct super;

/* Whether files of this tree can be opened again by handle; if not, says so in the log with the
 * name of the filesystem. 0 or ERR_CONF. */
int inode_probe(int root_fd);
/* Starts on the spool behind root_fd (kept, not owned) with the table at sh, which may be one
 * that an earlier server left: then its entries are taken over. max_fds bounds the cache of
 * descriptors. 0, or a negative code of err.h, logged. */
int
inode_start(struct inode_shared *sh, struct super *su, int root_fd, unsigned max_fds);

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

/* The nodeid of every entry at that place, as of now. No lock is held around fn. */
void inode_each_place(
	enum place_kind kind, void (*fn)(uint64_t nodeid, void *arg), void *arg);

/* Descriptors, counted and cached. INODE_ANY serves for fstat, *at calls and readdir; it is an
 * O_PATH one for what is neither file nor folder. Give each back with inode_fd_put. */
enum inode_fd_mode { INODE_ANY, INODE_READ, INODE_WRITE };
int inode_fd(struct inode *ino, enum inode_fd_mode mode, int *fd_out);
void inode_fd_put(struct inode *ino, int fd);

/* The path of a folder relative to the spool, without a leading slash; "" for the root. ENOENT
 * if it was removed, ENAMETOOLONG if it does not fit. */
int inode_path(struct inode *dir, char *buf, size_t size);
/* Of an errno of inode_path or inode_fd: nothing is called so any more, or can be. Any other is of
 * this moment (no descriptor left, the disk). */
bool inode_is_gone(int err);

/* What lies under name in dir, without counting a lookup: its attributes and, if the kernel
 * knows it, its entry (else NULL). ENOENT if nothing. */
int inode_peek(struct inode *dir, const char *name, struct stat *st_out,
	struct inode **ino_out);

/* Entries in use. */
uint32_t inode_count(void);

/*
 * For replay on a standby, which changes a file in place only while the kernel does not know it
 * (design 3.6). fd is any descriptor of it. True: not known, and whoever looks it up waits until
 * inode_unclaim. False: known; then a descriptor is pinned, so that its file may be replaced or
 * unlinked under those who have it open. A claim of a server that died, or
 * made before inode_claims_settled, lasts until that, or until somebody has waited for 10 s.
 * Over new memory, which a whole crash may have come before, so does one of every index and cache.
 */
bool inode_claim(int fd);
void inode_unclaim(int fd);
/* What the last server left half done was all done again; also when there was nothing. Due once in
 * each life. */
void inode_claims_settled(void);
/* The file behind fd is about to lose a name: pinned if the kernel knows it. Does it? */
bool inode_losing(int fd);

/* ---- for the request handlers and slot.c ---- */

/* The entry of the file with that handle, found under name in parent: made if it is
 * new, its place and parent brought up to date. With slot not NULL a lookup is counted, to be
 * told to the kernel by that slot's answer. */
int inode_enter(struct slot *slot, struct inode *parent, const char *name,
	const struct slot_handle *h, const struct stat *st, struct inode **ino_out);
/* The counts of an answer that the kernel never got are taken back. */
void inode_grants_undo(struct slot *slot);
/* The kernel forgets count lookups; item is its place in the request, for a request redone. */
void inode_forget(struct slot *slot, uint64_t item, uint64_t nodeid, uint64_t count);
/* ino has moved to name in parent. */
void inode_moved(struct inode *ino, struct inode *parent, const char *name);
/* Keeps the file of ino alive without a name, until the kernel forgets it. Before the last name
 * is removed. */
int inode_pin(struct inode *ino);
/* Gives an O_RDWR descriptor of ino to the cache, or closes it. */
void inode_fd_adopt(struct inode *ino, int fd);
/* The handle of what lies under name in the folder behind dirfd; len 0 if nothing does. */
int inode_handle_at(int dirfd, const char *name, struct slot_handle *handle_out);
bool inode_has_handle(const struct inode *ino, const struct slot_handle *handle);
/* The entry with that handle, if the kernel knows it, else NULL. */
struct inode *inode_by_handle(const struct slot_handle *handle);
/* The descriptor of the spool's root, for as long as the server lives. */
int inode_root_fd(void);

#endif
