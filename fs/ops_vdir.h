/*
 * ops_vdir.h - requests for the hidden folder .twinspool/.
 *
 * Each takes a request if it is for a node of vdir.h (a lookup: also the folder's name in the root)
 * and answers it; false leaves it to the handler of the spool that called. A request that
 * changes something never comes here: its handler finds no inode and says ops_vdir_errno.
 */
#ifndef FS_OPS_VDIR_H
#define FS_OPS_VDIR_H

#include "fs/inode.h"

#include <fuse_lowlevel.h>
#include <stdbool.h>

bool ops_vdir_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
/* Does not answer: there is nothing to answer. */
bool ops_vdir_forget(fuse_ino_t nodeid, uint64_t count);
bool ops_vdir_getattr(fuse_req_t req, fuse_ino_t nodeid);
bool ops_vdir_read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off);
bool ops_vdir_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t off, int whence);
bool
ops_vdir_readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off, bool plus);
/* There are no extended attributes; size as in getxattr, name NULL for the list of them. */
bool ops_vdir_xattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size);

/* What a handler says of a nodeid that is no inode: EROFS here, else ESTALE. */
int ops_vdir_errno(fuse_ino_t nodeid);

#endif
