/*
 * ops_vdir.c - the hidden folder's requests over vdir.c.
 *
 * Names of files are asked for again at each use (entry timeout 0), which is what makes each
 * lookup a new node with new bytes; a file's attributes never change, so they may be kept.
 */
#include "fs/ops_vdir.h"

#include "fs/ops.h"
#include "fs/slot.h"
#include "fs/vdir.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define KEEP 86400.0

static double
attr_timeout(const struct stat *st)
{
	return S_ISDIR(st->st_mode) ? 0 : KEEP;
}

int
ops_vdir_errno(fuse_ino_t nodeid)
{
	return vdir_owns(nodeid) ? EROFS : ESTALE;
}

bool
ops_vdir_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { 0 };
	bool keep = true;
	int err;

	e.ino = VDIR_ROOT;
	if (parent == INODE_ROOT && strcmp(name, OPS_OWN_NAME) == 0)
		err = vdir_stat(VDIR_ROOT, &e.attr);
	else if (vdir_owns(parent))
		err = vdir_lookup(parent, name, &e.ino, &e.attr, &keep);
	else
		return false;
	if (err != 0) {
		fuse_reply_err(req, err);
		return true;
	}
	e.entry_timeout = keep ? KEEP : 0;
	e.attr_timeout = attr_timeout(&e.attr);
	if (fuse_reply_entry(req, &e) != 0) /* the kernel did not get it */
		vdir_forget(e.ino, 1);
	return true;
}

bool
ops_vdir_forget(fuse_ino_t nodeid, uint64_t count)
{
	if (!vdir_owns(nodeid))
		return false;
	vdir_forget(nodeid, count);
	return true;
}

bool
ops_vdir_getattr(fuse_req_t req, fuse_ino_t nodeid)
{
	struct stat st;

	if (!vdir_owns(nodeid))
		return false;
	int err = vdir_stat(nodeid, &st);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_attr(req, &st, attr_timeout(&st));
	return true;
}

bool
ops_vdir_read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off)
{
	const uint8_t *data;
	size_t len, room, n = 0;

	if (!vdir_owns(nodeid))
		return false;
	char *out = slot_room(&room);
	int err = vdir_get(nodeid, &data, &len);
	if (err == 0) {
		if (size > room)
			err = EINVAL;
		else if ((uint64_t)off < len) {
			n = len - (size_t)off < size ? len - (size_t)off : size;
			memcpy(out, data + off, n);
		}
		vdir_put(nodeid);
	}
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_buf(req, out, n);
	return true;
}

/* Data from the first byte to the last. */
bool
ops_vdir_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t off, int whence)
{
	struct stat st;

	if (!vdir_owns(nodeid))
		return false;
	int err = vdir_stat(nodeid, &st);
	if (err == 0 && (off < 0 || off >= st.st_size))
		err = ENXIO;
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_lseek(req, whence == SEEK_HOLE ? st.st_size : off);
	return true;
}

struct listing {
	fuse_req_t req;
	bool plus;
	char *out;
	size_t size, used;
};

static bool
add(void *arg, const char *name, mode_t mode, uint64_t ino, uint64_t next)
{
	struct listing *l = arg;
	/* nodeid 0: a name only, no lookup */
	struct fuse_entry_param e = { .attr = { .st_ino = ino, .st_mode = mode } };
	size_t left = l->size - l->used, n;

	if (l->plus)
		n = fuse_add_direntry_plus(
			l->req, l->out + l->used, left, name, &e, (off_t)next);
	else
		n = fuse_add_direntry(
			l->req, l->out + l->used, left, name, &e.attr, (off_t)next);
	if (n > left)
		return false;
	l->used += n;
	return true;
}

bool
ops_vdir_readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off, bool plus)
{
	struct listing l = { .req = req, .plus = plus };
	size_t room;

	if (!vdir_owns(nodeid))
		return false;
	l.out = slot_room(&room);
	l.size = size < room ? size : room;
	int err = vdir_list(nodeid, (uint64_t)off, add, &l);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_buf(req, l.out, l.used);
	return true;
}

bool
ops_vdir_xattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size)
{
	if (!vdir_owns(nodeid))
		return false;
	if (name != NULL)
		fuse_reply_err(req, ENODATA);
	else if (size == 0)
		fuse_reply_xattr(req, 0);
	else
		fuse_reply_buf(req, NULL, 0);
	return true;
}
