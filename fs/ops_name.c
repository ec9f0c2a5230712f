/*
 * ops_name.c - requests that look names up, make them, move them and take them away.
 *
 * The kernel keeps the folders of a change locked until it has our answer, so between our look
 * at a name and the change nobody else changes it. That also makes a request that a dead server
 * had begun decidable: the note holds what was under its names before, and if they have moved on
 * in just the way the request wants, it was carried out and only the answer is missing.
 *
 *   creation   nothing was there, something is there now
 *   link       nothing was there, the linked file is there now
 *   removal    what was there is not there now
 *   rename     what was under the old name is under the new one (exchange: and the other way round)
 */
#include "fs/ops.h"

#include "fs/acl.h"
#include "fs/capture.h"
#include "fs/cred.h"
#include "fs/gate.h"
#include "fs/ops_vdir.h"
#include "fs/slot.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A folder of a request, with a descriptor to work in. */
struct in_dir {
	struct inode *ino;
	int fd;
};

/* clang-format off */
#define IN_DIR_NONE { NULL, -1 }
/* clang-format on */

/* What lies under a name just now. */
struct found {
	struct slot_handle handle; /* len 0: nothing */
	struct stat st;
	struct inode *ino; /* NULL: the kernel does not know it */
};

static int
dir_open(fuse_ino_t nodeid, struct in_dir *d)
{
	d->ino = inode_get(nodeid);
	if (d->ino == NULL)
		return ops_vdir_errno(nodeid);
	return inode_fd(d->ino, INODE_ANY, &d->fd);
}

static void
dir_close(struct in_dir *d)
{
	if (d->ino != NULL)
		inode_fd_put(d->ino, d->fd);
}

bool
ops_name_own(const struct inode *dir, const char *name)
{
	return name[0] == '.' && inode_place(dir).kind == PLACE_ROOT &&
	       strcmp(name, OPS_OWN_NAME) == 0;
}

static int
look(const struct in_dir *d, const char *name, struct found *f)
{
	int err;

	f->ino = NULL;
	if (ops_name_own(d->ino, name))
		return EPERM;
	err = inode_handle_at(d->fd, name, &f->handle);
	if (err != 0 || f->handle.len == 0)
		return err;
	if (fstatat(d->fd, name, &f->st, AT_SYMLINK_NOFOLLOW) != 0)
		return errno;
	f->ino = inode_by_handle(&f->handle);
	return 0;
}

static bool
same(const struct slot_handle *a, const struct slot_handle *b)
{
	return a->type == b->type && a->len == b->len &&
	       memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* The last name goes: keep the file for those who have it open. */
static int
pin_last(const struct found *f)
{
	if (f->ino == NULL || (!S_ISDIR(f->st.st_mode) && f->st.st_nlink > 1))
		return 0;
	return inode_pin(f->ino);
}

/* ---- answers ---- */

/* The attributes are in e->attr. */
static int
enter(struct inode *dir, const char *name, const struct slot_handle *h,
	struct fuse_entry_param *e, struct inode **ino_out)
{
	int err;

	if (e->attr.st_dev != ops_env.dev)
		return EXDEV;
	err = inode_enter(slot_current(), dir, name, h, &e->attr, ino_out);
	if (err != 0)
		return err;
	e->ino = inode_nodeid(*ino_out);
	e->attr_timeout = ops_attr_timeout(*ino_out);
	e->entry_timeout = ops_entry_timeout();
	return 0;
}

static int
fill_entry(struct inode *dir, const char *name, int fd, struct fuse_entry_param *e,
	struct inode **ino_out)
{
	struct slot_handle h;
	int err;

	memset(e, 0, sizeof(*e));
	if (fstat(fd, &e->attr) != 0)
		return errno;
	err = inode_handle_at(fd, "", &h);
	if (err == 0)
		err = enter(dir, name, &h, e, ino_out);
	if (err != 0)
		return err;
	/* Replay may have been at it until it was entered. */
	if (ops_env.standby && fstat(fd, &e->attr) != 0)
		return errno;
	ops_attr_shape(*ino_out, &e->attr);
	return 0;
}

/*
 * Without ACLs the kernel decides by the mode alone, whose group bits are a list's mask: it would
 * grant what the backing tree denies. So what has a list is not let in (decision 0019).
 */
static int
refuse_acl(struct inode *dir, int dirfd, const char *name)
{
	static _Atomic uint64_t said;
	char path[PATH_MAX];

	if (!acl_found_at(dirfd, name))
		return 0;
	if (log_due(&said))
		log_err("refused, it has an access control list: remove it from the "
			"spool (setfacl -b), or set `xattr: yes` path=%s/%s",
			inode_path(dir, path, sizeof(path)) == 0 ? path : "?", name);
	return EACCES;
}

int
ops_name_entry(struct inode *dir, int dirfd, const char *name,
	struct fuse_entry_param *e, struct inode **ino_out)
{
	int fd, err;

	*ino_out = NULL;
	fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno;
	err = ops_env.xattr ? 0 : refuse_acl(dir, dirfd, name);
	if (err == 0)
		err = fill_entry(dir, name, fd, e, ino_out);
	close(fd);
	return err;
}

int
ops_name_listed(struct inode *dir, int dirfd, const char *name,
	struct fuse_entry_param *e, struct inode **ino_out)
{
	struct slot_handle h;
	int err;

	if (ops_env.standby)
		return ops_name_entry(dir, dirfd, name, e, ino_out);
	*ino_out = NULL;
	memset(e, 0, sizeof(*e));
	err = inode_handle_at(dirfd, name, &h);
	if (err == 0 && fstatat(dirfd, name, &e->attr, AT_SYMLINK_NOFOLLOW) != 0)
		err = errno;
	if (err == 0 && !ops_env.xattr)
		err = refuse_acl(dir, dirfd, name);
	if (err == 0)
		err = enter(dir, name, &h, e, ino_out);
	if (err == 0)
		ops_attr_shape(*ino_out, &e->attr);
	return err;
}

static void
answer(fuse_req_t req, int err, const struct fuse_entry_param *e)
{
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_entry(req, e);
}

/* ---- lookup and forget ---- */

void
ops_name_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct in_dir d = IN_DIR_NONE;
	struct fuse_entry_param e;
	struct inode *ino = NULL;
	int err;

	if (ops_vdir_lookup(req, parent, name))
		return;
	err = dir_open(parent, &d);
	if (err == 0)
		err = ops_name_entry(d.ino, d.fd, name, &e, &ino);
	if (err == 0) {
		capture_lookup(d.ino, ino);
	} else if (err == ENOENT && ops_entry_timeout() > 0) {
		/* the kernel may remember that there is nothing */
		memset(&e, 0, sizeof(e));
		e.entry_timeout = ops_entry_timeout();
		err = 0;
	}
	dir_close(&d);
	answer(req, err, &e);
}

void
ops_name_forget(fuse_req_t req, fuse_ino_t nodeid, uint64_t count)
{
	if (!ops_vdir_forget(nodeid, count))
		inode_forget(slot_current(), 0, nodeid, count);
	fuse_reply_none(req);
}

void
ops_name_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < n; i++)
		if (!ops_vdir_forget(forgets[i].ino, forgets[i].nlookup))
			inode_forget(
				slot_current(), i, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* ---- creations ---- */

struct making {
	enum cap_op op;
	const char *name;
	mode_t mode;
	dev_t rdev;
	const char *text; /* of a symlink */
	int fd; /* CAP_CREATE: the new file, open */
};

static int
make_act(fuse_req_t req, const struct in_dir *d, struct making *m)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	int rc = -1, err;

	cred_enter(ctx->uid, ctx->gid, ops_env.xattr ? ctx->umask : 0);
	switch (m->op) {
	case CAP_CREATE:
		rc = m->fd = openat(d->fd, m->name,
			O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, m->mode);
		break;
	case CAP_MKDIR:
		rc = mkdirat(d->fd, m->name, m->mode);
		break;
	case CAP_SYMLINK:
		rc = symlinkat(m->text, d->fd, m->name);
		break;
	default:
		rc = mknodat(d->fd, m->name, m->mode, m->rdev);
		break;
	}
	err = rc < 0 ? errno : 0;
	cred_leave();
	return err;
}

/* Makes the name, or finds that a dead server had made it; e is its entry. */
static int
make(fuse_req_t req, const struct in_dir *d, struct making *m,
	struct fuse_entry_param *e)
{
	struct cap_name op = {
		.op = m->op, .parent = d->ino, .name = m->name, .redo = slot_again()
	};
	const struct slot_note *note = &slot_current()->note;
	struct found now;
	int err = look(d, m->name, &now);

	if (err != 0)
		return err;
	slot_note_take(&now.handle, NULL, 0);
	if (note->name.len != 0)
		return EEXIST;
	FAULT("make.noted");
	err = gate_create(d->ino, m->name);
	if (err == 0)
		err = capture_name_begin(&op);
	if (err != 0)
		return err;
	if (now.handle.len == 0)
		err = make_act(req, d, m);
	FAULT("make.done");
	if (err == 0)
		err = m->fd >= 0
			      ? fill_entry(d->ino, m->name, m->fd, e, &op.target)
			      : ops_name_entry(d->ino, d->fd, m->name, e, &op.target);
	capture_name_end(&op, err);
	if (m->fd >= 0 && op.target != NULL) {
		inode_fd_adopt(op.target, m->fd);
		m->fd = -1;
	}
	return err;
}

static void
make_and_answer(fuse_req_t req, fuse_ino_t parent, struct making *m)
{
	struct in_dir d = IN_DIR_NONE;
	struct fuse_entry_param e;
	int err = dir_open(parent, &d);

	m->fd = -1;
	if (err == 0)
		err = make(req, &d, m, &e);
	dir_close(&d);
	answer(req, err, &e);
}

void
ops_name_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct making m = { .op = CAP_MKDIR, .name = name, .mode = mode };

	make_and_answer(req, parent, &m);
}

void
ops_name_mknod(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct making m = { .op = CAP_MKNOD, .name = name, .mode = mode, .rdev = rdev };

	make_and_answer(req, parent, &m);
}

void
ops_name_symlink(fuse_req_t req, const char *text, fuse_ino_t parent, const char *name)
{
	struct making m = { .op = CAP_SYMLINK, .name = name, .text = text };

	make_and_answer(req, parent, &m);
}

/* The name was there although the kernel thought not: open what is there. */
static int
open_existing(
	const struct in_dir *d, const char *name, int flags, struct fuse_entry_param *e)
{
	struct inode *ino;
	int fd, err;

	if (flags & O_EXCL)
		return EEXIST;
	err = ops_name_entry(d->ino, d->fd, name, e, &ino);
	if (err != 0 || !(flags & O_TRUNC))
		return err;
	err = inode_fd(ino, INODE_WRITE, &fd);
	if (err == 0 && ftruncate(fd, 0) != 0)
		err = errno;
	if (err == 0 && fstat(fd, &e->attr) != 0)
		err = errno;
	ops_attr_shape(ino, &e->attr);
	inode_fd_put(ino, fd);
	return err;
}

void
ops_name_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi)
{
	struct making m = { .op = CAP_CREATE, .name = name, .mode = mode, .fd = -1 };
	struct in_dir d = IN_DIR_NONE;
	struct fuse_entry_param e;
	int err = dir_open(parent, &d);

	if (err == 0)
		err = make(req, &d, &m, &e);
	if (err == EEXIST && !ops_name_own(d.ino, name))
		err = open_existing(&d, name, fi->flags, &e);
	if (m.fd >= 0)
		close(m.fd);
	dir_close(&d);
	if (err != 0) {
		fuse_reply_err(req, err);
		return;
	}
	fi->fh = 0;
	fi->keep_cache = 1;
	fuse_reply_create(req, &e, fi);
}

/* ---- link ---- */

static int
link_it(struct inode *ino, const struct in_dir *d, const char *name,
	struct fuse_entry_param *e)
{
	struct cap_name op = { .op = CAP_LINK,
		.parent = d->ino,
		.name = name,
		.target = ino,
		.redo = slot_again() };
	const struct slot_note *note = &slot_current()->note;
	struct found now;
	int fd = -1, err = look(d, name, &now);

	if (err != 0)
		return err;
	slot_note_take(&now.handle, NULL, 0);
	if (note->name.len != 0)
		return EEXIST;
	err = capture_name_begin(&op);
	if (err != 0)
		return err;
	err = inode_fd(ino, INODE_ANY, &fd);
	if (err == 0 && now.handle.len == 0) {
		FAULT("link.noted");
		if (linkat(fd, "", d->fd, name, AT_EMPTY_PATH) != 0)
			err = errno;
		FAULT("link.done");
	} else if (err == 0 && !inode_has_handle(ino, &now.handle)) {
		err = EEXIST;
	}
	/* What has the name now is known: it need not be looked up by it. */
	if (err == 0)
		err = fill_entry(d->ino, name, fd, e, &op.target);
	inode_fd_put(ino, fd);
	capture_name_end(&op, err);
	return err;
}

void
ops_name_link(
	fuse_req_t req, fuse_ino_t nodeid, fuse_ino_t newparent, const char *newname)
{
	struct in_dir d = IN_DIR_NONE;
	struct fuse_entry_param e;
	struct inode *ino = inode_get(nodeid);
	int err = ino == NULL ? ops_vdir_errno(nodeid) : dir_open(newparent, &d);

	if (err == 0)
		err = link_it(ino, &d, newname, &e);
	dir_close(&d);
	answer(req, err, &e);
}

/* ---- removals ---- */

static int
remove_it(const struct in_dir *d, const char *name, enum cap_op what)
{
	struct cap_name op = {
		.op = what, .parent = d->ino, .name = name, .redo = slot_again()
	};
	const struct slot_note *note = &slot_current()->note;
	struct found now;
	bool gone;
	int err = look(d, name, &now);

	if (err != 0)
		return err == EPERM ? ENOENT : err;
	slot_note_take(&now.handle, NULL, 0);
	if (note->name.len == 0)
		return ENOENT;
	gone = !same(&note->name, &now.handle);
	op.target = inode_by_handle(&note->name);
	err = capture_name_begin(&op);
	if (err != 0)
		return err;
	if (!gone) {
		err = pin_last(&now);
		FAULT("remove.noted");
		if (err == 0 && unlinkat(d->fd, name,
					what == CAP_RMDIR ? AT_REMOVEDIR : 0) != 0)
			err = errno;
		FAULT("remove.done");
	}
	capture_name_end(&op, err);
	return err;
}

static void
remove_and_answer(fuse_req_t req, fuse_ino_t parent, const char *name, enum cap_op what)
{
	struct in_dir d = IN_DIR_NONE;
	int err = dir_open(parent, &d);

	if (err == 0)
		err = remove_it(&d, name, what);
	dir_close(&d);
	fuse_reply_err(req, err);
}

void
ops_name_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_and_answer(req, parent, name, CAP_UNLINK);
}

void
ops_name_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_and_answer(req, parent, name, CAP_RMDIR);
}

/* ---- rename ---- */

/* Whether the names stand as the rename wants them, given how they stood before. */
static bool
renamed(const struct slot_note *note, const struct found *from, const struct found *to,
	unsigned flags)
{
	if (same(&note->name,
		    &note->newname)) /* two names of one file: nothing moves */
		return false;
	if (flags & RENAME_EXCHANGE)
		return same(&note->name, &to->handle) &&
		       same(&note->newname, &from->handle);
	return same(&note->name, &to->handle) && from->handle.len == 0;
}

static int
rename_it(const struct in_dir *d, const char *name, const struct in_dir *nd,
	const char *newname, unsigned flags)
{
	struct cap_name op = { .op = CAP_RENAME,
		.parent = d->ino,
		.name = name,
		.newparent = nd->ino,
		.newname = newname,
		.flags = flags,
		.redo = slot_again() };
	const struct slot_note *note = &slot_current()->note;
	struct found from, to;
	int err = look(d, name, &from);

	if (err == 0)
		err = look(nd, newname, &to);
	if (err != 0)
		return err;
	slot_note_take(&from.handle, &to.handle, flags);
	if (note->name.len == 0)
		return ENOENT;
	op.target = inode_by_handle(&note->name);
	op.replaced = inode_by_handle(&note->newname);
	err = capture_name_begin(&op);
	if (err != 0)
		return err;
	if (!renamed(note, &from, &to, flags)) {
		if (to.handle.len != 0 && !(flags & RENAME_EXCHANGE))
			err = pin_last(&to);
		FAULT("rename.noted");
		if (err == 0 && renameat2(d->fd, name, nd->fd, newname, flags) != 0)
			err = errno;
		FAULT("rename.done");
	}
	if (err == 0 && op.target != NULL && !same(&note->name, &note->newname))
		inode_moved(op.target, nd->ino, newname);
	if (err == 0 && op.replaced != NULL && (flags & RENAME_EXCHANGE))
		inode_moved(op.replaced, d->ino, name);
	capture_name_end(&op, err);
	return err;
}

void
ops_name_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
	fuse_ino_t newparent, const char *newname, unsigned flags)
{
	struct in_dir d = IN_DIR_NONE, nd = IN_DIR_NONE;
	int err = dir_open(parent, &d);

	if (err == 0)
		err = dir_open(newparent, &nd);
	if (err == 0 && (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0)
		err = EINVAL;
	if (err == 0)
		err = rename_it(&d, name, &nd, newname, flags);
	dir_close(&d);
	dir_close(&nd);
	fuse_reply_err(req, err);
}
