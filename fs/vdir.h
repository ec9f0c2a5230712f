/*
 * vdir.h - the hidden folder .twinspool/ in the root of every mount: what it holds.
 *
 *   .twinspool/NAME                      files added with vdir_add: status, peers, metrics ...
 *   .twinspool/mailboxes/ID/NAME         files added with vdir_add_mailbox: state, name, index
 *
 * Read only, and only for root and the spool's owner. A file gets a new node at each lookup and
 * its content is made at that moment and never changes, so size and page cache always agree;
 * whoever has it open reads on in what it was.
 *
 * Owns     the nodes and their contents, bounded in bytes. Private memory: after the
 *          death of a server an old node is unknown (ESTALE), and the kernel looks the path up again.
 *          Numbers never come back, since each server counts in a range of its own.
 * Threads  any; a fill function may be called by several at once and without a lock held.
 * Errors   0 or a positive errno.
 * This part knows nothing of FUSE; the requests are ops_vdir.c.
 */
#ifndef FS_VDIR_H
#define FS_VDIR_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define VDIR_BIT ((uint64_t)1 << 63) /* in every nodeid here, in none of inode.h */
#define VDIR_ROOT (VDIR_BIT | 1) /* .twinspool itself */
#define VDIR_FILES_MAX 32
#define VDIR_BYTES_MAX ((size_t)64 << 20) /* of all nodes, their own size included */

/* Makes a file's content: appends to out. mailbox is the id for a file of a mailbox, else NULL.
 * A positive errno is what the lookup answers. */
typedef int vdir_fill_fn(void *arg, const char *mailbox, struct buf *out);

/* Which mailboxes there are: has says whether there is one of that id; each calls fn for all. */
struct vdir_mailboxes {
	void *arg;
	bool (*has)(void *arg, const char *id);
	void (*each)(void *arg, void (*fn)(void *fn_arg, const char *id), void *fn_arg);
};

/* births numbers the server process, 1 for the first; the files belong to uid and gid. */
void vdir_start(unsigned births, uid_t uid, gid_t gid);
/* Forgets everything, the files and mailboxes that were added included. */
void vdir_stop(void);

/* Before requests are served. The names must outlive it. EINVAL when there are too many. */
int vdir_add(const char *name, vdir_fill_fn *fill, void *arg);
int vdir_add_mailbox(const char *name, vdir_fill_fn *fill, void *arg);
void vdir_set_mailboxes(const struct vdir_mailboxes *mailboxes);

static inline bool
vdir_owns(uint64_t nodeid)
{
	return (nodeid & VDIR_BIT) != 0;
}

/* The node of name in the folder dir, with its attributes and one lookup counted. st_ino belongs
 * to the path, not to the node: cp and tar take a file whose number changes between two looks for
 * one that was replaced. keep_out: whether the kernel may keep this name or must ask each time. */
int vdir_lookup(uint64_t dir, const char *name, uint64_t *nodeid_out,
	struct stat *st_out, bool *keep_out);
void vdir_forget(uint64_t nodeid, uint64_t count);
int vdir_stat(uint64_t nodeid, struct stat *st_out);

/* A file's bytes; they stay until vdir_put. */
int vdir_get(uint64_t nodeid, const uint8_t **data_out, size_t *len_out);
void vdir_put(uint64_t nodeid);

/* The entries of a folder from the off-th on, "." and ".." first; ends when fn says false. mode
 * is the file type. */
typedef bool
vdir_entry_fn(void *arg, const char *name, mode_t mode, uint64_t ino, uint64_t next);
int vdir_list(uint64_t dir, uint64_t off, vdir_entry_fn *fn, void *arg);

/* Nodes that are known at the moment, for tests and metrics. */
unsigned vdir_nodes(void);

#endif
