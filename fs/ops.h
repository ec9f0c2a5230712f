/*
 * ops.h - the FUSE requests by family; each: find the inode, act as the caller, tell capture,
 * answer.
 *
 *   ops_name.c   names: lookup, create, mkdir, mknod, symlink, link, unlink, rmdir, rename, forget
 *   ops_data.c   bytes: read, write, fsync, fallocate, copy_file_range, lseek
 *   ops_attr.c   attributes: getattr, setattr, readlink, statfs, extended attributes
 *   ops_dir.c    folders: readdir, readdirplus, fsyncdir
 *
 * Threads  any thread of slot_run. No per-open state: OPEN and, on the active side, OPENDIR are
 *          answered ENOSYS, so the kernel keeps its caches and stops asking.
 * Caller   default_permissions is on: the kernel has checked. Handlers act as root, and creations
 *          under the caller's fsuid and fsgid, so that owners and setgid folders come out right.
 */
#ifndef FS_OPS_H
#define FS_OPS_H

#include "fs/inode.h"

#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdbool.h>

#define OPS_OWN_NAME ".twinspool" /* in the root: the slot's own, never shown */

struct ops_env {
	dev_t dev; /* the spool is one filesystem */
	bool xattr; /* extended attributes and ACLs are passed through */
	_Atomic bool
		standby; /* what the kernel knows may be changed by replay at any time */
};

extern struct ops_env ops_env;
extern const struct fuse_lowlevel_ops ops_table;

/* How long the kernel may believe an answer, in seconds. */
double ops_attr_timeout(const struct inode *ino);
double ops_entry_timeout(void);

/* Attributes as the mount shows them. */
void ops_attr_shape(const struct inode *ino, struct stat *st);
/* Looks at name in dir and fills e, with a lookup counted for the current slot. A positive errno;
 * ENOENT counts nothing. */
int ops_name_entry(struct inode *dir, int dirfd, const char *name,
	struct fuse_entry_param *e, struct inode **ino_out);
/* The same of a name in a listing, without opening it: names are not looked up twice, so nothing may
 * change them meanwhile. The kernel sees to that on an active side, for it keeps the folder locked. */
int ops_name_listed(struct inode *dir, int dirfd, const char *name,
	struct fuse_entry_param *e, struct inode **ino_out);
/* Whether name in that folder is the slot's own folder. */
bool ops_name_own(const struct inode *dir, const char *name);

void ops_name_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_name_forget(fuse_req_t req, fuse_ino_t nodeid, uint64_t count);
void ops_name_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *forgets);
void ops_name_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi);
void ops_name_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void ops_name_mknod(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void
ops_name_symlink(fuse_req_t req, const char *text, fuse_ino_t parent, const char *name);
void ops_name_link(
	fuse_req_t req, fuse_ino_t nodeid, fuse_ino_t newparent, const char *newname);
void ops_name_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_name_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_name_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
	fuse_ino_t newparent, const char *newname, unsigned flags);

void ops_data_read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off,
	struct fuse_file_info *fi);
void ops_data_write(fuse_req_t req, fuse_ino_t nodeid, const char *data, size_t size,
	off_t off, struct fuse_file_info *fi);
void ops_data_fsync(
	fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *fi);
void ops_data_fallocate(fuse_req_t req, fuse_ino_t nodeid, int mode, off_t off,
	off_t len, struct fuse_file_info *fi);
void ops_data_copy(fuse_req_t req, fuse_ino_t in, off_t in_off,
	struct fuse_file_info *in_fi, fuse_ino_t out, off_t out_off,
	struct fuse_file_info *out_fi, size_t len, int flags);
void ops_data_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t off, int whence,
	struct fuse_file_info *fi);

void ops_attr_get(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *fi);
void ops_attr_set(fuse_req_t req, fuse_ino_t nodeid, struct stat *st, int to_set,
	struct fuse_file_info *fi);
void ops_attr_readlink(fuse_req_t req, fuse_ino_t nodeid);
void ops_attr_statfs(fuse_req_t req, fuse_ino_t nodeid);
void ops_attr_setxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name,
	const char *value, size_t size, int flags);
void
ops_attr_getxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size);
void ops_attr_listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size);
void ops_attr_removexattr(fuse_req_t req, fuse_ino_t nodeid, const char *name);

void ops_dir_open(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *fi);
void ops_dir_readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off,
	struct fuse_file_info *fi);
void ops_dir_readdirplus(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off,
	struct fuse_file_info *fi);
void ops_dir_fsync(
	fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *fi);

#endif
