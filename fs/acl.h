/*
 * acl.h - access control lists that a mount with `xattr: no` can neither show nor obey.
 *
 * Threads: any.
 */
#ifndef FS_ACL_H
#define FS_ACL_H

#include <stdbool.h>

/* Whether what lies at path has any, or would give some to what is made in it. One system call
 * for a file without extended attributes. */
bool acl_found(const char *path);
/* The same of what is called name in dirfd; a symlink is not followed. */
bool acl_found_at(int dirfd, const char *name);

#endif
