/*
 * unmount.h - the mount as the machine sees it: found, registered, taken away, and who holds it.
 *
 * Nothing here touches the file system that is mounted, so it also works on a dead one.
 * Threads: any.
 */
#ifndef FS_UNMOUNT_H
#define FS_UNMOUNT_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define MOUNT_TYPE "fuse.twinspool"

enum { MOUNT_PATH_MAX = 4096 };

struct mount_place {
	uint64_t id; /* of the mount in this namespace */
	unsigned major, minor; /* st_dev of what lies in it */
	char source[MOUNT_PATH_MAX]; /* absolute path of the configuration file */
	char path[MOUNT_PATH_MAX]; /* the mount point */
};

/*
 * The path under which the kernel knows the mount at path: absolute, without symlinks. What is
 * mounted there may be dead or without an answer. False, with errno, if there is no such folder.
 */
bool unmount_real_path(const char *path, char out[MOUNT_PATH_MAX]);

/* The uppermost twinspool at path, a real one. 0, ERR_NOTFOUND, ERR_IO. */
int unmount_find(const char *path, struct mount_place *out);

/* The type of the filesystem behind fd as mount(8) calls it, "?" if it cannot be told. */
void unmount_type_of(int fd, char *out, size_t size);

/* One line of /proc/self/mountinfo: true if it is a twinspool, whole, at its root. */
bool unmount_parse(const char *line, struct mount_place *out);

/*
 * Tells umount(8) to call our helper: it looks for one only if the mount stands in
 * /run/mount/utab (util-linux 2.38). And takes that back. Failure is harmless but for the clean
 * stop by plain umount, so it is logged and that is all. Not in a process that ignores SIGCHLD.
 */
void unmount_register(const char *source, const char *path);
void unmount_unregister(const char *path);

/*
 * Unmounts, trying for a second while it is busy. 0, ERR_BUSY, or another code. One that is
 * gone already counts as done. lazy: detached even if it is busy.
 */
int unmount_now(const char *path, bool lazy);

/* Who holds the mount, a process a line: `PID NAME: what`. Returns how many were found. */
unsigned unmount_holders(const struct mount_place *place, struct buf *out);

#endif
