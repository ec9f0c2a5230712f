/*
 * capture.h - told of every change before and after it reaches the spool.
 *
 * The request handlers of ops_*.c call these; what is a commit is decided here and not there.
 *
 * Threads  any; the kernel holds the folders of a name change locked until the handler has
 *          answered, and a file while it is written or truncated.
 * Errors   a positive errno, which the caller of the system call gets; 0 goes on.
 * Redone   after the server died, a request that was begun is carried out again with the same
 *          calls (design 3.8). A change of names that had already happened is not done twice,
 *          but begin and end come again; everything here must bear that.
 */
#ifndef FS_CAPTURE_H
#define FS_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

struct inode;
struct sync;
struct sync_moving;

/* From now on changes are handed to replication; mailboxes that an earlier server left marked
 * are derived first. Before it everything passes. 0 or ERR_NOMEM. */
int capture_start(struct sync *sync, const char *mountpoint);
/* Hands on what waits, then lets everything pass again. */
void capture_stop(void);
/* Hands on what waits for its writer to rest. */
void capture_flush(void);

enum cap_op {
	CAP_CREATE,
	CAP_MKDIR,
	CAP_SYMLINK,
	CAP_MKNOD,
	CAP_LINK,
	CAP_UNLINK,
	CAP_RMDIR,
	CAP_RENAME
};

struct cap_name {
	enum cap_op op;
	struct inode *parent;
	const char *name;
	/* The object: what is linked, removed or moved. NULL before a creation, and for a name
	 * that the kernel never looked up. Filled in before capture_name_end where it exists. */
	struct inode *target;
	struct inode *
		newparent; /* CAP_RENAME: where to. CAP_LINK: NULL, name is the new one */
	const char *newname;
	unsigned flags; /* CAP_RENAME: RENAME_NOREPLACE, RENAME_EXCHANGE */
	struct inode *replaced; /* CAP_RENAME: what lay under newname, or NULL */
	bool redo; /* the server died in the middle of this; it may have happened already */
	struct sync_moving *moving; /* capture's, between begin and end */
};

/* Before the backing call; a positive errno refuses it, and then end is not called. */
int capture_name_begin(struct cap_name *op);
/* After it, err 0 or the errno of the backing call. */
void capture_name_end(struct cap_name *op, int err);

/* Around a change of bytes [off, off + len): write, fallocate, copy_file_range. fd is a read-write
 * descriptor of the backing file. The end comes also when the call failed, perhaps half way. */
int capture_write_begin(struct inode *ino, int fd, off_t off, size_t len);
void capture_write_end(struct inode *ino, int fd);

/* Carries out the sync of a file or folder; a positive errno when it failed. kinds_out: 0, or what
 * was committed by it, for capture_confirm. */
int capture_fsync(struct inode *ino, int fd, bool datasync, unsigned *kinds_out);
/* Whether a commit of these kinds may have to wait for the peers. */
bool capture_waits(unsigned kinds);
/* True: fn is called when the peers have what was committed up to now; see sync_confirm. */
bool capture_confirm(unsigned kinds, void (*fn)(void *arg, int code), void *arg);

/* Around setattr, truncation included; the end comes also when it failed. Extended attributes are
 * not captured (decision 0012). */
int capture_attr_begin(struct inode *ino, int fd);
void capture_attr_end(struct inode *ino, int fd);

/* The kernel asked for a name in parent and got ino. */
void capture_lookup(struct inode *parent, struct inode *ino);

#endif
