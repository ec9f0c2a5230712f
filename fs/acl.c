/*
 * acl.c - neither stat nor statx tells of a list, but a file without extended attributes has none.
 */
#include "fs/acl.h"

#include <stddef.h>
#include <sys/xattr.h>

bool
acl_found(const char *path)
{
	return listxattr(path, NULL, 0) > 0 &&
	       (getxattr(path, "system.posix_acl_access", NULL, 0) > 0 ||
		       getxattr(path, "system.posix_acl_default", NULL, 0) > 0);
}
