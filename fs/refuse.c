/*
 * refuse.c - reasons not to mount.
 *
 * The id ties a spool to its state folder. A backing disk that is not mounted looks like an empty
 * spool, and serving that would tell the peer that all mail is gone: so an id on one side only is
 * refused. First start, in this order: state/id.new, spool/.twinspool/id, then state/id.new gets its
 * name; each step synced. A crash in between leaves id.new, which the next start completes if the
 * spool's id, when there is one, equals it.
 */
#include "fs/refuse.h"

#include "fs/acl.h"
#include "fs/inode.h"
#include "fs/ops.h"
#include "fs/unmount.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"
#include "meta/base/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define ID_BYTES 16
#define ID_TEXT (2 * ID_BYTES)

/* ---- the mount point ---- */

static int
check_empty(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *d;
	int rc = 0;

	if (dir == NULL) {
		log_err("the mount point is no folder that can be opened path=%s "
			"error=%s",
			path, strerror(errno));
		return ERR_CONF;
	}
	while (rc == 0 && (d = readdir(dir)) != NULL) {
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		log_err("the mount point is not empty path=%s has=%s", path, d->d_name);
		rc = ERR_CONF;
	}
	closedir(dir);
	return rc;
}

bool
refuse_is_dead(const char *path)
{
	struct statfs fs;

	/* stat would be answered from what the kernel remembers */
	return statfs(path, &fs) != 0 && errno == ENOTCONN;
}

static int
check_mountpoint(const char *path, bool *dead_out)
{
	struct mount_place *there = malloc(sizeof(*there));
	bool mounted = there != NULL && unmount_find(path, there) == 0;

	free(there);
	*dead_out = false;
	if (mounted) {
		if (refuse_is_dead(path)) {
			*dead_out = true;
			return 0;
		}
		log_err("a slot is mounted there already path=%s", path);
		return ERR_BUSY;
	}
	return check_empty(path);
}

static bool
is_below(const char *path, const char *top)
{
	return strcmp(top, "/") == 0 || path_rest(path, top) != NULL;
}

static int
check_apart(const char *mountpoint, const char *spool)
{
	char sp[PATH_MAX];

	if (realpath(spool, sp) == NULL) {
		log_err("the spool cannot be found path=%s error=%s", spool,
			strerror(errno));
		return ERR_CONF;
	}
	if (is_below(sp, mountpoint) || is_below(mountpoint, sp)) {
		log_err("the spool and the mount point must not contain each other "
			"spool=%s mountpoint=%s",
			sp, mountpoint);
		return ERR_CONF;
	}
	return 0;
}

/* ---- ACLs ---- */

/* The root, which nobody looks up, and the folders in it. Looking deeper would be a walk over all
 * mail; those are refused one by one when they are looked up (ops_name.c). */
static int
check_acl(int root_fd, const char *spool)
{
	char path[64 + NAME_MAX];
	const char *name = "";
	struct dirent *d;
	DIR *dir;
	bool found;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", root_fd);
	found = acl_found(path);
	dir = opendir(path);
	while (!found && dir != NULL && (d = readdir(dir)) != NULL) {
		if (d->d_type != DT_DIR || strcmp(d->d_name, "..") == 0)
			continue;
		name = d->d_name;
		snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", root_fd, name);
		found = acl_found(path);
	}
	if (found)
		log_err("the spool has an access control list: remove it (setfacl -b), "
			"or set `xattr: yes` path=%s/%s",
			spool, name);
	if (dir != NULL)
		closedir(dir);
	return found ? ERR_CONF : 0;
}

/* ---- the id ---- */

/* The id in name, "" if there is no such file. */
static int
id_read(int dirfd, const char *name, char id[ID_TEXT + 1])
{
	uint8_t raw[ID_BYTES];
	ssize_t n;
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	id[0] = '\0';
	if (fd < 0)
		return errno == ENOENT ? 0 : err_from_errno(errno);
	n = read(fd, id, ID_TEXT);
	close(fd);
	id[n > 0 ? n : 0] = '\0';
	return n == ID_TEXT && hash_unhex(id, raw, ID_BYTES) == 0 ? 0 : ERR_MANGLED;
}

static int
id_write(int dirfd, const char *name, const char *id)
{
	char line[ID_TEXT + 2];
	int fd, rc = 0;

	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
		0600);
	if (fd < 0)
		return err_from_errno(errno);
	snprintf(line, sizeof(line), "%s\n", id);
	if (write(fd, line, ID_TEXT + 1) != ID_TEXT + 1 || fsync(fd) != 0 ||
		fsync(dirfd) != 0)
		rc = ERR_IO;
	close(fd);
	return rc;
}

static int
id_first(int state_fd, int own_fd, char id[ID_TEXT + 1])
{
	uint8_t raw[ID_BYTES];
	int rc = 0;

	if (id[0] == '\0') {
		if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
			return ERR_IO;
		hash_hex(raw, sizeof(raw), id);
		rc = id_write(state_fd, "id.new", id);
	}
	if (rc == 0)
		rc = id_write(own_fd, "id", id);
	if (rc == 0 && renameat(state_fd, "id.new", state_fd, "id") != 0)
		rc = err_from_errno(errno);
	if (rc == 0 && fsync(state_fd) != 0)
		rc = ERR_IO;
	return rc;
}

static int
id_check(int state_fd, int own_fd, const char *spool, const char *state)
{
	char ours[ID_TEXT + 1], begun[ID_TEXT + 1], theirs[ID_TEXT + 1];
	int rc = id_read(state_fd, "id", ours);

	if (rc == 0)
		rc = id_read(own_fd, "id", theirs);
	if (rc == 0)
		rc = id_read(state_fd, "id.new", begun);
	if (rc != 0) {
		log_err("an id file cannot be read spool=%s state=%s error=%s", spool,
			state, err_text(rc));
		return ERR_FOREIGN;
	}
	if (ours[0] != '\0' && strcmp(ours, theirs) == 0)
		return 0;
	if (ours[0] == '\0' && (theirs[0] == '\0' || strcmp(theirs, begun) == 0)) {
		rc = id_first(state_fd, own_fd, begun);
		if (rc != 0)
			log_err("the ids cannot be written spool=%s state=%s error=%s",
				spool, state, err_text(rc));
		return rc;
	}
	if (theirs[0] == '\0')
		log_err("the spool has no " OPS_OWN_NAME "/id but the state folder has "
			"one: is its disk mounted? spool=%s state=%s",
			spool, state);
	else if (ours[0] == '\0')
		log_err("the spool belongs to another state folder spool=%s state=%s",
			spool, state);
	else
		log_err("the spool's id is not the state folder's spool=%s state=%s",
			spool, state);
	return ERR_FOREIGN;
}

static int
check_id(int root_fd, const char *spool, const char *state)
{
	int own_fd = -1, state_fd, rc = ERR_CONF;

	state_fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state_fd < 0) {
		log_err("the state folder cannot be opened path=%s error=%s", state,
			strerror(errno));
		goto out;
	}
	/* not made when the state knows the spool already: then it must be there */
	if (faccessat(state_fd, "id", F_OK, 0) != 0 &&
		(mkdirat(root_fd, OPS_OWN_NAME, 0700) == 0 || errno == EEXIST))
		(void)fsync(root_fd);
	own_fd = openat(
		root_fd, OPS_OWN_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (own_fd < 0) {
		log_err("the spool has no folder " OPS_OWN_NAME
			": is its disk mounted? spool=%s error=%s",
			spool, strerror(errno));
		rc = ERR_FOREIGN;
		goto out;
	}
	rc = id_check(state_fd, own_fd, spool, state);
out:
	if (own_fd >= 0)
		close(own_fd);
	if (state_fd >= 0)
		close(state_fd);
	return rc;
}

int
refuse_check(const char *mountpoint, const char *spool, const char *state, bool xattr,
	struct refuse_found *out)
{
	int rc;

	out->root_fd = -1;
	rc = check_mountpoint(mountpoint, &out->over_dead);
	if (rc == 0)
		rc = check_apart(mountpoint, spool);
	if (rc != 0)
		return rc;
	out->root_fd = open(spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (out->root_fd < 0) {
		log_err("the spool cannot be opened path=%s error=%s", spool,
			strerror(errno));
		return ERR_CONF;
	}
	rc = inode_probe(out->root_fd);
	if (rc == 0 && !xattr)
		rc = check_acl(out->root_fd, spool);
	if (rc == 0)
		rc = check_id(out->root_fd, spool, state);
	if (rc != 0) {
		close(out->root_fd);
		out->root_fd = -1;
	}
	return rc;
}
