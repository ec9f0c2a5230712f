/*
 * acl.c - neither stat nor statx tells of a list, but a file without extended attributes has none.
 */
#include "fs/acl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Linux 6.13; Debian 12's headers do not know it, and the older kernels answer ENOSYS. */
#ifndef SYS_listxattrat
#define SYS_listxattrat 465
#endif

bool
acl_found(const char *path)
{
	return listxattr(path, NULL, 0) > 0 &&
	       (getxattr(path, "system.posix_acl_access", NULL, 0) > 0 ||
		       getxattr(path, "system.posix_acl_default", NULL, 0) > 0);
}

bool
acl_found_at(int dirfd, const char *name)
{
	static atomic_bool lacking;
	char path[PATH_MAX];

	if (!atomic_load_explicit(&lacking, memory_order_relaxed)) {
		long n = syscall(
			SYS_listxattrat, dirfd, name, AT_SYMLINK_NOFOLLOW, NULL, 0);
		if (n <= 0 && !(n < 0 && errno == ENOSYS))
			return false;
		if (n < 0)
			atomic_store(&lacking, true);
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	return llistxattr(path, NULL, 0) > 0 &&
	       (lgetxattr(path, "system.posix_acl_access", NULL, 0) > 0 ||
		       lgetxattr(path, "system.posix_acl_default", NULL, 0) > 0);
}
