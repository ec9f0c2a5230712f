/*
 * What completes a transaction, by place (design 4):
 *
 *   INDEX    a record written: touched. The whole header at offset 0: committed, handed on by
 *            the fsync that follows
 *   NEW      renamed over INDEX: committed (a repack). Over HEADER or ANNOT: touched, the next
 *            index header confirms it
 *   ANNOT    written: touched, read again at the commit
 *   MESSAGE  linked: nothing yet, the index decides (FT17). Unlinked: kept for a peer that may
 *            still need it
 *   FILE     and folders outside: a path change, once quiet, synced or renamed
 *   STAGE, SYNC, OWN, CACHE, other NEW: never
 *
 * Before any change of INDEX what its mailbox owes to the disk is paid (round.h).
 *
 * Without a struct sync (a standby, or a mount that replicates nothing) everything passes.
 */
#include "fs/capture.h"
#include "fs/gate.h"
#include "fs/inode.h"
#include "fs/pending.h"
#include "fs/quiet.h"
#include "fs/round.h"
#include "fs/stats.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "sync/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_TRIES = 20 };

static struct sync *to;

int
capture_start(struct sync *sync, const char *mountpoint)
{
	int rc = quiet_start(sync);

	to = sync;
	if (rc == 0)
		rc = pending_start(sync, mountpoint);
	return rc;
}

void
capture_stop(void)
{
	if (to == NULL)
		return;
	pending_flush(true);
	pending_stop();
	quiet_stop();
	to = NULL;
}

void
capture_flush(void)
{
	if (to == NULL)
		return;
	quiet_flush();
	pending_flush(strcmp(gate_word(), "shut") == 0);
}

static enum place_kind
kind_of(const struct inode *ino)
{
	return ino != NULL ? (enum place_kind)inode_place(ino).kind : PLACE_NONE;
}

/* Whether names in this folder can concern us at all. */
static bool
is_ours(const struct inode *dir)
{
	enum place_kind k = kind_of(dir);

	return k == PLACE_ROOT || k == PLACE_DIR;
}

/* The path of name in dir, or of dir itself. 0 or a positive errno. */
static int
join(struct inode *dir, const char *name, char *out, size_t size)
{
	char path[BATCH_MAX_PATH];
	int err = inode_path(dir, path, sizeof(path));

	if (err != 0)
		return err;
	int n = snprintf(out, size, "%s%s%s", path,
		path[0] != '\0' && name != NULL ? "/" : "", name != NULL ? name : "");
	return n >= 0 && (size_t)n < size ? 0 : ENAMETOOLONG;
}

/* A path without a place in a batch: no peer ever hears of it, but somebody should. */
static void
is_unnamed(int err, const char *name)
{
	static _Atomic uint64_t said;

	if (err == ENAMETOOLONG && log_due(&said))
		log_warn("a path of more than %d bytes is not replicated name=%s",
			BATCH_MAX_PATH - 1, name != NULL ? name : "");
}

/* The path of a file, from the kernel's own knowledge of the open descriptor. */
static bool
path_of(struct inode *ino, int fd, char *out, size_t size)
{
	char link[64], full[BATCH_MAX_PATH], dir[BATCH_MAX_PATH];
	struct inode *parent = inode_parent(ino), *found;
	struct stat st, now;
	const char *name;

	if (parent == NULL || !is_ours(parent))
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, full, sizeof(full) - 1);
	if (n <= 0 || inode_path(parent, dir, sizeof(dir)) != 0)
		return false;
	full[n] = '\0';
	name = strrchr(full, '/');
	if (name == NULL || fstat(fd, &st) != 0)
		return false;
	if (inode_peek(parent, name + 1, &now, &found) != 0 || now.st_ino != st.st_ino)
		return false;
	int len = snprintf(out, size, "%s%s%s", dir, dir[0] ? "/" : "", name + 1);
	return len > 0 && (size_t)len < size;
}

/* The path of what lies under name in dir, or of dir itself, changed. */
static void
path_changed(struct inode *dir, const char *name, bool now)
{
	char path[BATCH_MAX_PATH];
	uint64_t names;

	do {
		names = sync_names(to);
		int err = join(dir, name, path, sizeof(path));
		/* It was found to be noted; for want of a descriptor it is looked for again. */
		for (unsigned i = 0; err != 0 && !inode_is_gone(err) && i < PATH_TRIES;
			i++) {
			usleep(5000);
			err = join(dir, name, path, sizeof(path));
		}
		if (err != 0 && !inode_is_gone(err))
			log_err("a change waits for the next start, its path is not "
				"found: name=%s: %s",
				name != NULL ? name : "", strerror(err));
		if (err != 0)
			return;
		FAULT("capture.path-found");
	} while (!quiet_changed(path, names, now));
}

static void
file_changed(struct inode *ino, int fd, bool now)
{
	char path[BATCH_MAX_PATH];
	uint64_t names;

	do {
		names = sync_names(to);
		if (!path_of(ino, fd, path, sizeof(path)))
			return;
		/* Who looked at it while it was written has not seen the end. */
		if (!now)
			(void)sync_note(to, path, names);
		FAULT("capture.path-found");
	} while (!quiet_changed(path, names, now));
}

/* A file or folder outside mailboxes is about to be changed in place. A note that is there already
 * costs no second sync, but says that what was looked at before is not the last word. */
static int
note_change(struct inode *ino, int fd)
{
	char path[BATCH_MAX_PATH];
	int rc;

	do {
		uint64_t names = sync_names(to);
		bool known = inode_type(ino) == S_IFDIR
				     ? inode_path(ino, path, sizeof(path)) == 0
				     : path_of(ino, fd, path, sizeof(path));
		rc = known ? sync_note(to, path, names) : 0;
	} while (rc == ERR_NOTFOUND);
	return rc == 0 ? 0 : err_errno(rc);
}

/* name in dir, or dir itself, which is the note for an index that comes into being in it; fn says
 * whether the name may go. */
static int
note_by(int (*fn)(struct sync *, const char *, uint64_t), struct inode *dir,
	const char *name)
{
	char path[BATCH_MAX_PATH];
	int rc, err;

	do {
		uint64_t names = sync_names(to);
		err = join(dir, name, path, sizeof(path));
		if (err != 0) {
			is_unnamed(err, name);
			return inode_is_gone(err) ? 0 : err;
		}
		rc = fn(to, path, names);
	} while (rc == ERR_NOTFOUND);
	return rc == 0 ? 0 : err_errno(rc);
}

static int
note(struct inode *dir, const char *name)
{
	return note_by(sync_note, dir, name);
}

static int
note_leaving(struct inode *dir, const char *name)
{
	return note_by(sync_note_leaving, dir, name);
}

static struct place
place_under(struct inode *dir, const char *name, mode_t type)
{
	return place_step(inode_place(dir), name, type);
}

static bool
is_dir(const struct inode *ino)
{
	return ino != NULL && inode_type(ino) == S_IFDIR;
}

/* Is what is called so replicated as a path: a folder, or a file that is no mailbox's? */
static bool
is_inside(struct inode *dir, const char *name, const struct inode *what)
{
	enum place_kind k;

	if (!is_ours(dir))
		return false;
	k = place_under(dir, name, what != NULL ? inode_type(what) : S_IFREG).kind;
	return k == PLACE_DIR || k == PLACE_FILE;
}

/* A folder, or a folder and something else that change places. */
static bool
is_move(const struct cap_name *op)
{
	return is_dir(op->target) ||
	       ((op->flags & RENAME_EXCHANGE) != 0 && is_dir(op->replaced));
}

/* Everything that gets another name has both in the replicated area, or neither. */
static bool
crosses(const struct cap_name *op)
{
	bool out = is_inside(op->parent, op->name, op->target),
	     in = is_inside(op->newparent, op->newname, op->target);

	if ((op->flags & RENAME_EXCHANGE) != 0)
		return out != in || !is_inside(op->parent, op->name, op->replaced) ||
		       !is_inside(op->newparent, op->newname, op->replaced);
	return out != in;
}

/*
 * Both names of a folder that is about to be moved within the replicated area. A name that is too
 * long for a batch lies outside of it like any other.
 */
static int
move_begin(struct cap_name *op)
{
	char from[BATCH_MAX_PATH], dest[BATCH_MAX_PATH];
	int rc;

	do {
		uint64_t names = sync_names(to);
		int out = join(op->parent, op->name, from, sizeof(from)),
		    in = join(op->newparent, op->newname, dest, sizeof(dest));
		if (out != 0 || in != 0)
			return out == in && out == ENAMETOOLONG ? 0 : EXDEV;
		rc = sync_move_begin(to, names, from, dest, &op->moving);
	} while (rc == ERR_NOTFOUND);
	if (rc == 0 && ((rc = sync_note_leaving(to, from, 0)) != 0 ||
			       (rc = sync_note(to, dest, 0)) != 0)) {
		sync_move_end(to, op->moving, SYNC_NOT_MOVED);
		op->moving = NULL;
	}
	return rc == 0 ? 0 : err_errno(rc);
}

static int
look_at(void *arg, const char *path)
{
	(void)arg;
	quiet_look(path);
	return 0;
}

static void
move_end(struct cap_name *op, bool done)
{
	char from[BATCH_MAX_PATH], dest[BATCH_MAX_PATH];

	if (done && join(op->parent, op->name, from, sizeof(from)) == 0 &&
		join(op->newparent, op->newname, dest, sizeof(dest)) == 0)
		quiet_moved(from, dest, (op->flags & RENAME_EXCHANGE) != 0);
	(void)sync_move_noted(to, op->moving, look_at, NULL);
	sync_move_end(to, op->moving,
		!done                                ? SYNC_NOT_MOVED
		: (op->flags & RENAME_EXCHANGE) != 0 ? SYNC_SWAPPED
						     : SYNC_MOVED);
	op->moving = NULL;
}

static int
rename_begin(struct cap_name *op)
{
	enum place_kind from = kind_of(op->target);
	struct place goal = place_under(op->newparent, op->newname,
		op->target != NULL ? inode_type(op->target) : S_IFREG);
	int err = 0;

	/* A folder comes into what is replicated, or leaves it, file by file: mv copies then, and
	 * each step is seen. */
	if (is_move(op) && (is_ours(op->parent) || is_ours(op->newparent)))
		return crosses(op) ? EXDEV : move_begin(op);
	if (goal.kind == PLACE_INDEX && is_ours(op->newparent)) {
		int fd = -1;
		if (op->replaced != NULL &&
			inode_fd(op->replaced, INODE_READ, &fd) != 0)
			fd = -1;
		pending_replace(op->newparent, fd);
		if (fd >= 0)
			inode_fd_put(op->replaced, fd);
	} else if (goal.kind == PLACE_HEADER || goal.kind == PLACE_ANNOT) {
		pending_touch(op->newparent, goal.kind == PLACE_ANNOT);
	} else {
		if (goal.kind == PLACE_FILE && is_ours(op->newparent))
			err = note(op->newparent, op->newname);
		if (err == 0 && is_ours(op->parent) &&
			place_under(op->parent, op->name, S_IFREG).kind == PLACE_FILE)
			err = note_leaving(op->parent, op->name);
	}
	/* A mailbox file that loses its name to something else is looked at as a whole. */
	if ((from == PLACE_INDEX || from == PLACE_HEADER || from == PLACE_ANNOT) &&
		is_ours(op->parent))
		pending_unsure(op->parent);
	return err;
}

/* Before its unlink. Found under a name that a move has just taken it is not there: once more. */
static void
keep_body(struct inode *dir, uint32_t uid)
{
	char path[BATCH_MAX_PATH];
	bool valid;

	do {
		uint64_t names = sync_names(to);
		if (inode_path(dir, path, sizeof(path)) != 0)
			return;
		FAULT("capture.path-found");
		sync_keep_body(to, path, uid);
		valid = sync_names_enter(to, names, path);
		if (valid)
			sync_names_leave(to);
		else
			sync_names_wait(to, path);
	} while (!valid);
}

/* A name that makes something durable nameable, or an index out of its .NEW. */
static int
syncs_of_name(struct cap_name *op)
{
	if (op->op == CAP_LINK && op->target != NULL &&
		place_under(op->parent, op->name, S_IFREG).kind == PLACE_MESSAGE)
		round_linked(op->parent, op->target);
	if (op->op == CAP_RENAME && op->newparent != NULL &&
		place_under(op->newparent, op->newname, S_IFREG).kind == PLACE_INDEX)
		return round_pay(op->newparent);
	return 0;
}

int
capture_name_begin(struct cap_name *op)
{
	char dir[BATCH_MAX_PATH];
	struct place at;
	int err;

	op->moving = NULL;
	if (op->parent == NULL)
		return 0;
	if ((err = syncs_of_name(op)) != 0 || to == NULL)
		return err;
	if (op->op == CAP_RENAME)
		return rename_begin(op);
	if (!is_ours(op->parent))
		return 0;
	switch (op->op) {
	case CAP_CREATE:
		at = place_under(op->parent, op->name, S_IFREG);
		if (at.kind == PLACE_INDEX) {
			pending_unsure(op->parent);
			return note(op->parent, NULL);
		}
		return at.kind == PLACE_FILE ? note(op->parent, op->name) : 0;
	case CAP_MKDIR:
		at = place_under(op->parent, op->name, S_IFDIR);
		return at.kind == PLACE_DIR ? note(op->parent, op->name) : 0;
	case CAP_SYMLINK:
	case CAP_MKNOD:
		return note(op->parent, op->name);
	case CAP_LINK:
		/* Where the body came from, so that it travels as a reference. */
		if (kind_of(op->target) == PLACE_MESSAGE && !op->redo) {
			/* If it is moved just now the hint is wrong, and the peer asks. */
			struct inode *from = inode_parent(op->target);
			struct stat st;
			if (from != NULL && is_ours(from) &&
				inode_path(from, dir, sizeof(dir)) == 0) {
				int fd;
				if (inode_fd(op->target, INODE_ANY, &fd) == 0) {
					if (fstat(fd, &st) == 0)
						sync_linked(to, st.st_ino, dir,
							inode_place(op->target).uid);
					inode_fd_put(op->target, fd);
				}
			}
		}
		at = place_under(op->parent, op->name, S_IFREG);
		return at.kind == PLACE_FILE ? note(op->parent, op->name) : 0;
	case CAP_UNLINK:
		at = place_under(op->parent, op->name, S_IFREG);
		if (at.kind == PLACE_MESSAGE)
			keep_body(op->parent, at.uid);
		return at.kind == PLACE_FILE ? note_leaving(op->parent, op->name) : 0;
	case CAP_RMDIR:
		return note_leaving(op->parent, op->name);
	case CAP_RENAME:
		break;
	}
	return 0;
}

static void
rename_end(struct cap_name *op)
{
	struct place goal = place_under(op->newparent, op->newname,
		op->target != NULL ? inode_type(op->target) : S_IFREG);

	if (goal.kind == PLACE_INDEX && is_ours(op->newparent)) {
		unsigned kinds;
		(void)pending_commit(op->newparent, &kinds);
		return;
	}
	if ((op->flags & RENAME_EXCHANGE) != 0) {
		/* Both names hold something else now; each is stated as it is. */
		if (is_ours(op->parent))
			path_changed(op->parent, op->name, true);
		if (is_ours(op->newparent))
			path_changed(op->newparent, op->newname, true);
		return;
	}
	if (goal.kind == PLACE_FILE && is_ours(op->newparent))
		path_changed(op->newparent, op->newname, true);
	if (is_ours(op->parent) &&
		place_under(op->parent, op->name, S_IFREG).kind == PLACE_FILE)
		path_changed(op->parent, op->name, true);
}

static void
rename_failed(struct cap_name *op)
{
	mode_t type = op->target != NULL ? inode_type(op->target) : S_IFREG;
	enum place_kind from = PLACE_NONE, goal = PLACE_NONE;

	if (is_ours(op->parent))
		from = (enum place_kind)place_under(op->parent, op->name, type).kind;
	if (is_ours(op->newparent))
		goal = (enum place_kind)place_under(op->newparent, op->newname, type)
			       .kind;
	if (from == PLACE_FILE || from == PLACE_DIR)
		path_changed(op->parent, op->name, false);
	if (goal == PLACE_FILE || goal == PLACE_DIR)
		path_changed(op->newparent, op->newname, false);
}

void
capture_name_end(struct cap_name *op, int err)
{
	mode_t type = S_IFREG;

	if (to == NULL || op->parent == NULL)
		return;
	/* What failed was noted as well: once the path is looked at, its note goes. */
	if (op->op == CAP_RENAME) {
		bool moving = op->moving != NULL;
		if (moving)
			move_end(op, err == 0);
		if (err != 0)
			rename_failed(op);
		else if (!moving)
			rename_end(op);
		return;
	}
	if (!is_ours(op->parent))
		return;
	if (op->op == CAP_MKDIR || op->op == CAP_RMDIR)
		type = S_IFDIR;
	struct place at = place_under(op->parent, op->name, type);
	/* A rename in the layout by name links message after message before it says so. */
	if (at.kind == PLACE_MESSAGE)
		pending_stir(op->parent);
	if (at.kind == PLACE_FILE || at.kind == PLACE_DIR)
		path_changed(op->parent, op->name,
			err == 0 && (op->op == CAP_UNLINK || op->op == CAP_RMDIR));
}

int
capture_write_begin(struct inode *ino, int fd, off_t off, size_t len)
{
	enum place_kind kind = kind_of(ino);
	struct inode *dir;
	int err;

	switch (kind) {
	case PLACE_INDEX:
		if ((dir = inode_parent(ino)) == NULL)
			break;
		if ((err = round_pay(dir)) != 0)
			return err;
		if (to != NULL && is_ours(dir))
			pending_index_write(dir, fd, off, len);
		break;
	case PLACE_ANNOT:
		if (to != NULL && (dir = inode_parent(ino)) != NULL && is_ours(dir))
			pending_touch(dir, true);
		break;
	case PLACE_FILE:
		return to != NULL ? note_change(ino, fd) : 0;
	default:
		break;
	}
	return 0;
}

void
capture_write_end(struct inode *ino, int fd)
{
	if (to != NULL && kind_of(ino) == PLACE_FILE)
		file_changed(ino, fd, false);
}

int
capture_fsync(struct inode *ino, int fd, bool datasync, unsigned *kinds_out)
{
	struct inode *dir;
	int err = round_sync(ino, fd, datasync);

	*kinds_out = 0;
	if (err != 0)
		return err;
	if (to == NULL)
		return 0;
	if (kind_of(ino) == PLACE_INDEX) {
		/* It is on this disk, and will travel. An error would make Cyrus unlink a message that
		 * the index names; it is for those who were promised more. */
		if ((dir = inode_parent(ino)) != NULL && is_ours(dir) &&
			(err = pending_commit(dir, kinds_out)) != 0 &&
			!capture_waits(*kinds_out))
			err = 0;
	} else if (kind_of(ino) == PLACE_ANNOT) {
		if ((dir = inode_parent(ino)) != NULL && is_ours(dir))
			pending_retry(dir);
	} else if (kind_of(ino) == PLACE_FILE) {
		file_changed(ino, fd, true);
	}
	return err;
}

bool
capture_waits(unsigned kinds)
{
	return to != NULL && kinds != 0 && sync_waits(to, kinds);
}

bool
capture_confirm(unsigned kinds, void (*fn)(void *arg, int code), void *arg)
{
	return to != NULL && kinds != 0 && sync_confirm(to, kinds, fn, arg);
}

int
capture_attr_begin(struct inode *ino, int fd)
{
	struct inode *dir;
	int err;

	if (kind_of(ino) == PLACE_FILE || kind_of(ino) == PLACE_DIR)
		return to != NULL ? note_change(ino, fd) : 0;
	if (kind_of(ino) != PLACE_INDEX || (dir = inode_parent(ino)) == NULL)
		return 0;
	if ((err = round_pay(dir)) != 0)
		return err;
	/* A truncated or re-owned index is looked at as a whole. */
	if (to != NULL && is_ours(dir))
		pending_unsure(dir);
	return 0;
}

void
capture_attr_end(struct inode *ino, int fd)
{
	if (to == NULL)
		return;
	if (kind_of(ino) == PLACE_FILE) {
		file_changed(ino, fd, false);
	} else if (kind_of(ino) == PLACE_DIR) {
		path_changed(ino, NULL, false);
	}
}

void
capture_lookup(struct inode *parent, struct inode *ino)
{
	char path[BATCH_MAX_PATH];
	struct stat st;
	int fd;

	if (to == NULL || kind_of(ino) != PLACE_INDEX || !is_ours(parent))
		return;
	/* The lazy check after a clean stop: has anybody changed it behind our back? */
	if (inode_path(parent, path, sizeof(path)) != 0 ||
		inode_fd(ino, INODE_ANY, &fd) != 0)
		return;
	bool moved = fstat(fd, &st) == 0 && st.st_size > 0 && !pending_is(parent) &&
		     sync_index_moved(to, path, st.st_ino, (uint64_t)st.st_size,
			     (uint64_t)st.st_mtim.tv_sec * 1000000000u +
				     (uint64_t)st.st_mtim.tv_nsec);
	inode_fd_put(ino, fd);
	if (moved) {
		log_info("mailbox changed while it was not mounted, derived: dir=%s",
			path);
		pending_derive(parent);
	}
}
