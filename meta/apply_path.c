/*
 * apply_path.c - replay of what lies outside mailboxes: files, folders, links, nodes.
 *
 * Each change states a result and looks first whether it is reached, so doing it twice is
 * harmless. The files of a mailbox are never touched from here: a name that a mailbox has for
 * itself is refused wherever there is a mailbox, and our own folder, stage. and sync. always.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/path.h"
#include "meta/scan.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct path {
	struct spool *sp;
	const struct mbox_env *env;
	struct mbox_need *need;
	struct mbox_fault *fault;
};

/* A path in two: its folder and its name. */
struct split {
	char dir[BATCH_MAX_PATH];
	const char *name;
};

static void
split(const char *path, struct split *out)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash != NULL ? (size_t)(slash - path) : 0;

	memcpy(out->dir, path, n);
	out->dir[n] = '\0';
	out->name = slash != NULL ? slash + 1 : path;
}

static int
refuse(struct path *p, const char *path, const char *why)
{
	return scan_fault(p->fault, ERR_MANGLED, 0, "path", "%.100s: %s", path, why);
}

static int
check_path(struct path *p, const char *path)
{
	struct split at;

	if (path[0] == '\0' || path[0] == '/' || strlen(path) >= BATCH_MAX_PATH)
		return refuse(p, path, "not a path inside the spool");
	if (path_rest(path, ".twinspool") != NULL ||
		path_rest(path, "stage.") != NULL || path_rest(path, "sync.") != NULL)
		return refuse(p, path, "never replicated");
	split(path, &at);
	if (spool_name_is_mbox(at.name) && spool_dir_is_mbox(p->sp, at.dir))
		return refuse(p, path, "belongs to a mailbox");
	return 0;
}

static int
set_attrs(struct path *p, const struct change_path *c, const struct split *at)
{
	return spool_attrs(
		p->sp, at->dir, at->name, c->uid, c->gid, c->mode & 07777, c->mtime);
}

static bool
content_is(struct path *p, const struct change_path *c, const struct split *at)
{
	uint8_t sha1[SHA1_LEN];
	uint64_t size;
	struct stat st;
	int fd;

	if (spool_file(p->sp, at->dir, at->name, O_RDONLY | O_NONBLOCK, 0, &fd) != 0)
		return false;
	bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
		    (uint64_t)st.st_size == c->size &&
		    hash_sha1_fd(fd, sha1, &size) == 0 && size == c->size &&
		    memcmp(sha1, c->sha1, SHA1_LEN) == 0;
	close(fd);
	return same;
}

static int
put_file(struct path *p, const struct change_path *c, const struct split *at)
{
	int rc;

	if (content_is(p, c, at))
		return set_attrs(p, c, at);
	if (c->size == 0) {
		rc = spool_replace(
			p->sp, at->dir, at->name, "", 0, c->mode, c->uid, c->gid);
	} else {
		const struct spool_place to = { -1, at->dir, at->name, c->uid, c->gid,
			c->mode & 07777, c->mtime, true };
		rc = p->env->take_body != NULL
			     ? p->env->take_body(p->env->arg, c->sha1, &to)
			     : ERR_NOTFOUND;
		/* What is kept may be from a life whose power was cut. */
		if (rc == ERR_NOTFOUND &&
			(rc = spool_kept_link(p->sp, c->sha1, at->dir, at->name)) ==
				0 &&
			!content_is(p, c, at))
			rc = ERR_NOTFOUND;
	}
	FAULT("apply.file");
	if (rc == ERR_NOTFOUND) {
		if (p->need != NULL) {
			snprintf(p->need->path, sizeof(p->need->path), "%s", c->path);
			memcpy(p->need->guid, c->sha1, SHA1_LEN);
			p->need->size = c->size;
			p->need->uid = 0;
		}
		return ERR_NEED;
	}
	if (rc == 0)
		rc = set_attrs(p, c, at);
	return rc;
}

static int
put_special(struct path *p, const struct change_path *c, enum change_kind kind,
	const struct split *at)
{
	char target[BATCH_MAX_PATH];
	struct stat st;
	ssize_t n;
	int rc = spool_stat(p->sp, at->dir, at->name, &st), fd;

	if (rc == 0 && kind == CHANGE_SYMLINK && S_ISLNK(st.st_mode)) {
		rc = spool_file(p->sp, at->dir, at->name, O_PATH | O_NOFOLLOW, 0, &fd);
		n = rc == 0 ? readlinkat(fd, "", target, sizeof(target)) : -1;
		if (rc == 0)
			close(fd);
		if (n >= 0 && (size_t)n == strlen(c->target) &&
			memcmp(target, c->target, (size_t)n) == 0)
			return set_attrs(p, c, at);
	}
	if (rc == 0 && kind == CHANGE_NODE &&
		(st.st_mode & S_IFMT) == (c->mode & S_IFMT) && st.st_rdev == c->rdev)
		return set_attrs(p, c, at);
	rc = kind == CHANGE_SYMLINK
		     ? spool_symlink(p->sp, c->target, at->dir, at->name)
		     : spool_mknod(p->sp, c->mode, c->rdev, at->dir, at->name);
	if (rc == 0)
		rc = set_attrs(p, c, at);
	return rc;
}

static int
put_dir(struct path *p, const struct change_path *c, const struct split *at)
{
	struct stat st;
	int rc = spool_stat(p->sp, at->dir, at->name, &st);

	if (rc == 0 && !S_ISDIR(st.st_mode)) {
		rc = spool_unlink(p->sp, at->dir, at->name);
		if (rc == 0)
			rc = ERR_NOTFOUND;
	}
	if (rc == ERR_NOTFOUND)
		rc = spool_mkdirs(p->sp, c->path, c->mode & 07777, c->uid, c->gid);
	if (rc == 0)
		rc = set_attrs(p, c, at);
	return rc;
}

static int
drop(struct path *p, const struct change_path *c, const struct split *at)
{
	struct stat st;
	int rc = spool_stat(p->sp, at->dir, at->name, &st);

	if (rc == ERR_NOTFOUND)
		return 0;
	if (rc == 0)
		rc = S_ISDIR(st.st_mode) ? spool_rmdir(p->sp, c->path)
					 : spool_unlink(p->sp, at->dir, at->name);
	if (rc == ERR_NOTFOUND)
		return 0;
	if (rc == ERR_EXISTS)
		return scan_fault(p->fault, ERR_DIVERGED, 0, "path",
			"%.100s: to be removed, and not empty", c->path);
	return rc;
}

static int
move(struct path *p, const struct change_path *c, const struct split *at)
{
	struct split to;
	struct stat st;
	int rc = check_path(p, c->target);

	if (rc != 0)
		return rc;
	split(c->target, &to);
	if (spool_stat(p->sp, at->dir, at->name, &st) == ERR_NOTFOUND)
		return spool_stat(p->sp, to.dir, to.name, &st) == 0
			       ? 0
			       : scan_fault(p->fault, ERR_DIVERGED, 0, "path",
					 "%.100s: to be moved, and neither here nor "
					 "there",
					 c->path);
	rc = spool_move(p->sp, c->path, c->target);
	FAULT("apply.move");
	if (rc == ERR_EXISTS)
		return scan_fault(p->fault, ERR_DIVERGED, 0, "path",
			"%.100s: to be moved to a name that is taken", c->path);
	return rc;
}

static int
swap(struct path *p, const struct change_path *c)
{
	int rc = check_path(p, c->target);

	if (rc != 0)
		return rc;
	rc = spool_swap(p->sp, c->path, c->target, c->rdev);
	FAULT("apply.swap");
	if (rc == ERR_NOTFOUND)
		return scan_fault(p->fault, ERR_DIVERGED, 0, "path",
			"%.100s: to change places with one that is not there", c->path);
	return rc;
}

static int
apply_one(struct path *p, const struct change *change)
{
	const struct change_path *c = &change->u.path;
	struct split at;
	int rc = check_path(p, c->path);

	if (rc != 0)
		return rc;
	split(c->path, &at);
	if (change->kind == CHANGE_DELETE)
		return drop(p, c, &at);
	if (change->kind == CHANGE_MOVE)
		return move(p, c, &at);
	if (change->kind == CHANGE_SWAP)
		return swap(p, c);
	if (change->kind == CHANGE_DIR)
		return put_dir(p, c, &at);
	rc = spool_mkdirs(p->sp, at.dir, 0755, c->uid, c->gid);
	if (rc != 0)
		return rc;
	if (change->kind == CHANGE_FILE)
		return put_file(p, c, &at);
	if (change->kind == CHANGE_SYMLINK || change->kind == CHANGE_NODE)
		return put_special(p, c, change->kind, &at);
	return refuse(p, c->path, "not a change of a path");
}

int
mbox_apply_path(struct spool *sp, const struct batch *b, const struct mbox_env *env,
	struct mbox_need *need_out, struct mbox_fault *fault)
{
	struct path p = { .sp = sp, .env = env, .need = need_out, .fault = fault };

	if (b->dir[0] != '\0')
		return ERR_USAGE;
	for (size_t i = 0; i < b->n; i++) {
		int rc = apply_one(&p, &b->changes[i]);
		if (rc != 0)
			return rc;
	}
	return 0;
}
