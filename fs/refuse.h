/*
 * refuse.h - reasons not to mount, looked for before anything is touched.
 *
 * Errors 0, or a negative code of err.h with one clear line in the log. Threads: one, at start.
 */
#ifndef FS_REFUSE_H
#define FS_REFUSE_H

#include <stdbool.h>

struct refuse_found {
	int root_fd; /* the spool's root, open; the caller's */
	bool over_dead; /* a dead mount of ours lies on the mount point */
};

/*
 * The mount point, a real path, must be an empty folder, or hold a dead mount of this program; the spool a
 * folder that neither contains the mount point nor lies in it, on a filesystem with file
 * handles, and .twinspool/id in it must equal `id` in the state folder. If both are missing
 * this is the first start, and both are made. With xattr false, ACLs on the root and its folders are refused.
 */
int refuse_check(const char *mountpoint, const char *spool, const char *state,
	bool xattr, struct refuse_found *out);

/* Whether what is mounted on path has lost its server for good. */
bool refuse_is_dead(const char *path);

#endif
