/*
 * ops_attr.c - requests for attributes, extended ones included.
 *
 * What is neither file nor folder has only an O_PATH descriptor. The calls that refuse one are
 * made through /proc/self/fd, which leads to the object itself, symlinks too.
 */
#include "fs/ops.h"

#include "fs/capture.h"
#include "fs/gate.h"
#include "fs/ops_vdir.h"
#include "fs/slot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BLKSIZE (128 * 1024) /* programs write in such pieces, each is one request */
#define LONG_TIMEOUT 86400.0

struct ops_env ops_env;

struct fd_path {
	char text[32];
};

static struct fd_path
path_of(int fd)
{
	struct fd_path p;

	snprintf(p.text, sizeof(p.text), "/proc/self/fd/%d", fd);
	return p;
}

double
ops_attr_timeout(const struct inode *ino)
{
	return gate_shows(ino) ? 0 : ops_env.standby ? 0 : LONG_TIMEOUT;
}

double
ops_entry_timeout(void)
{
	return ops_env.standby ? 0 : LONG_TIMEOUT;
}

void
ops_attr_shape(const struct inode *ino, struct stat *st)
{
	gate_shape(ino, st);
	if (S_ISREG(st->st_mode))
		st->st_blksize = BLKSIZE;
}

static int
any_open(fuse_ino_t nodeid, struct inode **ino_out, int *fd_out)
{
	*fd_out = -1;
	*ino_out = inode_get(nodeid);
	return *ino_out == NULL ? ops_vdir_errno(nodeid)
				: inode_fd(*ino_out, INODE_ANY, fd_out);
}

static void
any_close(struct inode *ino, int fd)
{
	if (ino != NULL)
		inode_fd_put(ino, fd);
}

static int
attributes(const struct inode *ino, int fd, struct stat *st_out)
{
	if (fstat(fd, st_out) != 0)
		return errno;
	ops_attr_shape(ino, st_out);
	return 0;
}

void
ops_attr_get(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *fi)
{
	struct inode *ino;
	struct stat st;
	int fd, err;

	(void)fi;
	if (ops_vdir_getattr(req, nodeid))
		return;
	err = any_open(nodeid, &ino, &fd);
	if (err == 0)
		err = attributes(ino, fd, &st);
	any_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_attr(req, &st, ops_attr_timeout(ino));
}

static int
set_mode(const struct inode *ino, int fd, mode_t mode)
{
	mode_t type = inode_type(ino);
	int rc;

	if (type == S_IFREG || type == S_IFDIR)
		rc = fchmod(fd, mode & 07777);
	else
		rc = chmod(path_of(fd).text, mode & 07777);
	return rc == 0 ? 0 : errno;
}

static int
set_times(int fd, int to_set, const struct stat *st)
{
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT },
		{ .tv_nsec = UTIME_OMIT } };

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		ts[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		ts[0] = st->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		ts[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		ts[1] = st->st_mtim;
	if (utimensat(fd, "", ts, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != EINVAL)
		return errno;
	return utimensat(AT_FDCWD, path_of(fd).text, ts, 0) == 0 ? 0 : errno;
}

/* Size, owner, mode, times: a change of owner takes the set-id bits away, the mode says what is
 * left of them, and the times come last because the others move them. */
static int
set_all(struct inode *ino, int fd, int to_set, const struct stat *st)
{
	const int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME |
			  FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
	int err = 0;

	if ((to_set & FUSE_SET_ATTR_SIZE) && ftruncate(fd, st->st_size) != 0)
		return errno;
	if (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t uid = to_set & FUSE_SET_ATTR_UID ? st->st_uid : (uid_t)-1;
		gid_t gid = to_set & FUSE_SET_ATTR_GID ? st->st_gid : (gid_t)-1;

		if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) != 0)
			return errno;
	}
	if (to_set & FUSE_SET_ATTR_MODE)
		err = set_mode(ino, fd, st->st_mode);
	if (err == 0 && (to_set & times))
		err = set_times(fd, to_set, st);
	return err;
}

void
ops_attr_set(fuse_req_t req, fuse_ino_t nodeid, struct stat *st, int to_set,
	struct fuse_file_info *fi)
{
	struct inode *ino = inode_get(nodeid);
	struct stat now;
	int fd = -1, err = ops_vdir_errno(nodeid);

	(void)fi;
	if (ino != NULL)
		err = inode_fd(ino,
			to_set & FUSE_SET_ATTR_SIZE ? INODE_WRITE : INODE_ANY, &fd);
	if (err == 0)
		err = capture_attr_begin(ino, fd);
	if (err == 0) {
		err = set_all(ino, fd, to_set, st);
		capture_attr_end(ino, fd);
	}
	if (err == 0)
		err = attributes(ino, fd, &now);
	any_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_attr(req, &now, ops_attr_timeout(ino));
}

void
ops_attr_readlink(fuse_req_t req, fuse_ino_t nodeid)
{
	char text[PATH_MAX + 1];
	struct inode *ino;
	ssize_t n = 0;
	int fd, err = any_open(nodeid, &ino, &fd);

	if (err == 0) {
		n = readlinkat(fd, "", text, sizeof(text) - 1);
		if (n < 0)
			err = errno;
	}
	any_close(ino, fd);
	if (err != 0) {
		fuse_reply_err(req, err);
		return;
	}
	text[n] = '\0';
	fuse_reply_readlink(req, text);
}

void
ops_attr_statfs(fuse_req_t req, fuse_ino_t nodeid)
{
	struct statvfs sv;

	(void)nodeid;
	if (fstatvfs(inode_root_fd(), &sv) != 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &sv);
}

/* ---- extended attributes ---- */

static bool
in_group(fuse_req_t req, gid_t gid)
{
	gid_t groups[256];
	int n = fuse_req_getgroups(req, 256, groups);

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	for (int i = 0; i < n && i < 256; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

/* The owner of a file who is not in its group must not keep its set-group-id bit by way of a list; the
 * kernel leaves that to us, and we act as root. */
static int
drop_setgid(fuse_req_t req, const struct inode *ino, int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return errno;
	if ((st.st_mode & S_ISGID) == 0 || fuse_req_ctx(req)->uid == 0 ||
		in_group(req, st.st_gid))
		return 0;
	return set_mode(ino, fd, st.st_mode & ~(mode_t)S_ISGID);
}

void
ops_attr_setxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name,
	const char *value, size_t size, int flags)
{
	const struct slot_note *note = &slot_current()->note;
	struct inode *ino;
	bool there;
	int fd, err;

	if (!ops_env.xattr) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	err = any_open(nodeid, &ino, &fd);
	if (err != 0)
		goto out;
	there = getxattr(path_of(fd).text, name, NULL, 0) >= 0;
	slot_note_take(NULL, NULL, there);
	if ((flags & XATTR_CREATE) && note->word != 0)
		err = EEXIST;
	else if ((flags & XATTR_REPLACE) && note->word == 0)
		err = ENODATA;
	if (err != 0)
		goto out;
	/* the note has decided; the same value twice does no harm */
	if (setxattr(path_of(fd).text, name, value, size, 0) != 0)
		err = errno;
	else if (strcmp(name, "system.posix_acl_access") == 0)
		err = drop_setgid(req, ino, fd);
out:
	any_close(ino, fd);
	fuse_reply_err(req, err);
}

void
ops_attr_getxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size)
{
	struct inode *ino;
	size_t room;
	char *value = slot_room(&room);
	ssize_t n = 0;
	int fd, err;

	if (!ops_env.xattr) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	if (ops_vdir_xattr(req, nodeid, name, size))
		return;
	err = any_open(nodeid, &ino, &fd);
	if (err == 0) {
		n = getxattr(path_of(fd).text, name, value, size < room ? size : room);
		if (n < 0)
			err = errno;
	}
	any_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, value, (size_t)n);
}

/* Takes out the names that only a privileged caller may see: we are one, the caller is not. */
static size_t
drop_trusted(char *names, size_t n)
{
	static const char prefix[] = "trusted.";
	size_t kept = 0;

	for (size_t at = 0; at < n;) {
		size_t len = strnlen(names + at, n - at - 1) + 1;

		if (strncmp(names + at, prefix, sizeof(prefix) - 1) != 0) {
			memmove(names + kept, names + at, len);
			kept += len;
		}
		at += len;
	}
	return kept;
}

void
ops_attr_listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size)
{
	struct inode *ino;
	size_t room;
	char *names = slot_room(&room);
	ssize_t n = 0;
	int fd, err;

	if (!ops_env.xattr) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	if (ops_vdir_xattr(req, nodeid, NULL, size))
		return;
	err = any_open(nodeid, &ino, &fd);
	if (err == 0) {
		n = listxattr(path_of(fd).text, names, room);
		if (n < 0)
			err = errno;
		else if (n > 0 && fuse_req_ctx(req)->uid != 0)
			n = (ssize_t)drop_trusted(names, (size_t)n);
		if (size > 0 && n > (ssize_t)size)
			err = ERANGE;
	}
	any_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, names, (size_t)n);
}

void
ops_attr_removexattr(fuse_req_t req, fuse_ino_t nodeid, const char *name)
{
	const struct slot_note *note = &slot_current()->note;
	struct inode *ino;
	bool there;
	int fd, err;

	if (!ops_env.xattr) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	err = any_open(nodeid, &ino, &fd);
	if (err != 0)
		goto out;
	there = getxattr(path_of(fd).text, name, NULL, 0) >= 0;
	slot_note_take(NULL, NULL, there);
	if (there || note->word == 0) { /* else a dead server had removed it */
		if (removexattr(path_of(fd).text, name) != 0)
			err = errno;
	}
out:
	any_close(ino, fd);
	fuse_reply_err(req, err);
}
