/*
 * spool.c - how the backing tree is touched.
 *
 * A path is resolved once, by openat2 from the root, to a descriptor of its folder; the last
 * name is then used relative to that. So a rename or symlink made meanwhile cannot lead outside.
 * Where a file is only opened, one openat2 of the whole path does it.
 *
 * New files are made without a name, or in staging/ under tmp-<n>, and come to where they belong
 * when they are complete (spool_new.c), so a folder of Cyrus never holds a half-written file of
 * ours, and what a crash leaves is swept by the one that owns the tree.
 */
#include "meta/spool_priv.h"

#include "meta/base/cur.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OWN ".twinspool"
#define STAGING OWN "/staging"
#define KEPT OWN "/kept"
#define SWAP "swap" /* in staging: the last one, and what lay where before it */
#define PATH_LIMIT 4096

/* ---- files that lose a name ---- */

void
spool_watch(struct spool *sp, spool_losing_fn *losing, void *arg)
{
	sp->losing = losing;
	sp->losing_arg = arg;
}

void
spool_tell_losing(struct spool *sp, int at, const char *name)
{
	int fd;

	if (sp->losing == NULL)
		return;
	fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	sp->losing(sp->losing_arg, fd);
	close(fd);
}

/* ---- the limit of the tests ---- */

int
spool_change(struct spool *sp)
{
	long left = atomic_load(&sp->limit);

	if (left == 0)
		return ERR_IO;
	if (left > 0)
		atomic_store(&sp->limit, left - 1);
	atomic_fetch_add(&sp->changes, 1);
	return 0;
}

void
spool_set_limit(struct spool *sp, long n)
{
	atomic_store(&sp->limit, n < 0 ? -1 : n);
}

long
spool_changes(struct spool *sp)
{
	return atomic_exchange(&sp->changes, 0);
}

/* ---- opening ---- */

int
spool_open_under(int at, const char *path, int flags, mode_t mode, int *fd_out)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC),
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	long fd;

	do {
		fd = syscall(SYS_openat2, at, path, &how, sizeof(how));
	} while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	if (fd < 0)
		return err_from_errno(errno);
	*fd_out = (int)fd;
	return 0;
}

static bool
path_ok(const char *path)
{
	size_t n = strlen(path);

	if (path[0] == '/' || n >= PATH_LIMIT)
		return false;
	for (const char *at = path; (at = strstr(at, "..")) != NULL; at += 2)
		if ((at == path || at[-1] == '/') && (at[2] == '\0' || at[2] == '/'))
			return false;
	return true;
}

bool
spool_name_ok(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n <= NAME_MAX && strchr(name, '/') == NULL &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* A descriptor (O_PATH) of the folder dir. */
static int
dir_open(struct spool *sp, const char *dir, int *fd_out)
{
	if (!path_ok(dir))
		return ERR_USAGE;
	return spool_open_under(
		sp->root, dir[0] != '\0' ? dir : ".", O_PATH | O_DIRECTORY, 0, fd_out);
}

/* The same, with a last name that must be one component. */
int
spool_dir_of(struct spool *sp, const char *dir, const char *name, int *fd_out)
{
	if (!spool_name_ok(name))
		return ERR_USAGE;
	return dir_open(sp, dir, fd_out);
}

/* path -> the folder it lies in (open) and its last name (inside path). */
static int
split(struct spool *sp, const char *path, int *fd_out, const char **name_out)
{
	char dir[PATH_LIMIT];
	const char *slash = strrchr(path, '/');

	if (!path_ok(path))
		return ERR_USAGE;
	if (slash == NULL) {
		*name_out = path;
		return spool_dir_of(sp, "", path, fd_out);
	}
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = '\0';
	*name_out = slash + 1;
	return spool_dir_of(sp, dir, slash + 1, fd_out);
}

static int
own_folder(int at, const char *name, int *fd_out)
{
	if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
		return err_from_errno(errno);
	return spool_open_under(at, name, O_RDONLY | O_DIRECTORY, 0, fd_out);
}

typedef bool keep_fn(void *arg, const uint8_t guid[SHA1_LEN]);

/* Temporary files of a process that died, if temps. Staged bodies stay, and are counted: they were
 * verified; with `keep` only those that it says. */
static void
sweep_staging(struct spool *sp, bool temps, keep_fn *keep, void *arg)
{
	uint8_t guid[SHA1_LEN];
	int fd = openat(sp->staging, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (d == NULL) {
		if (fd >= 0)
			close(fd);
		return;
	}
	atomic_store(&sp->staged, 0);
	while ((e = readdir(d)) != NULL)
		if (e->d_name[0] == '.' ||
			(!temps && strncmp(e->d_name, "tmp-", 4) == 0))
			continue;
		else if (strncmp(e->d_name, "tmp-", 4) == 0 ||
			 (keep != NULL && (hash_unhex(e->d_name, guid, SHA1_LEN) != 0 ||
						  !keep(arg, guid))))
			unlinkat(sp->staging, e->d_name, 0);
		else
			atomic_fetch_add(&sp->staged, 1);
	closedir(d);
}

void
spool_sweep(struct spool *sp)
{
	sweep_staging(sp, true, NULL, NULL);
}

void
spool_stage_forget(struct spool *sp, keep_fn *keep, void *arg)
{
	sweep_staging(sp, true, keep, arg);
}

int
spool_open(const char *root, struct spool **out)
{
	struct spool *sp = calloc(1, sizeof(*sp));
	int own = -1, rc;

	if (sp == NULL)
		return ERR_NOMEM;
	sp->staging = sp->kept = -1;
	atomic_store(&sp->limit, -1);
	sp->root = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sp->root < 0) {
		rc = err_from_errno(errno);
		goto out;
	}
	rc = own_folder(sp->root, OWN, &own);
	if (rc == 0)
		rc = own_folder(own, "staging", &sp->staging);
	if (rc == 0)
		rc = own_folder(own, "kept", &sp->kept);
	if (rc != 0)
		goto out;
	sweep_staging(sp, false, NULL, NULL);
	*out = sp;
	sp = NULL;
out:
	if (own >= 0)
		close(own);
	spool_close(sp);
	return rc;
}

void
spool_close(struct spool *sp)
{
	if (sp == NULL)
		return;
	if (sp->root >= 0)
		close(sp->root);
	if (sp->staging >= 0)
		close(sp->staging);
	if (sp->kept >= 0)
		close(sp->kept);
	free(sp);
}

int
spool_root_fd(const struct spool *sp)
{
	return sp->root;
}

/* ---- reading ---- */

int
spool_file(struct spool *sp, const char *dir, const char *name, int flags, mode_t mode,
	int *fd_out)
{
	char path[PATH_LIMIT];
	int at, rc;

	if (name == NULL) {
		if (!path_ok(dir))
			return ERR_USAGE;
		return spool_open_under(
			sp->root, dir[0] != '\0' ? dir : ".", flags, mode, fd_out);
	}
	if (!spool_name_ok(name) || !path_ok(dir))
		return ERR_USAGE;
	bool makes = (flags & (O_CREAT | O_TRUNC)) != 0;
	int n = snprintf(
		path, sizeof(path), "%s%s%s", dir, dir[0] != '\0' ? "/" : "", name);
	if (!makes && n > 0 && (size_t)n < sizeof(path))
		return spool_open_under(sp->root, path, flags, mode, fd_out);
	if ((rc = dir_open(sp, dir, &at)) != 0)
		return rc;
	if (makes)
		rc = spool_change(sp);
	if (rc == 0)
		rc = spool_open_under(at, name, flags, mode, fd_out);
	close(at);
	return rc;
}

int
spool_file_at(int at, const char *name, int flags, int *fd_out)
{
	int fd = openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return err_from_errno(errno);
	*fd_out = fd;
	return 0;
}

int
spool_read(struct spool *sp, const char *dir, const char *name, size_t max,
	struct buf *out, struct stat *st_out)
{
	struct stat st;
	int fd, rc;

	rc = spool_file(sp, dir, name, O_RDONLY | O_NONBLOCK, 0, &fd);
	if (rc != 0)
		return rc;
	if (fstat(fd, &st) < 0) {
		rc = err_from_errno(errno);
		goto out;
	}
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max) {
		rc = S_ISREG(st.st_mode) ? ERR_LIMIT : ERR_MANGLED;
		goto out;
	}
	size_t left = (size_t)st.st_size;
	uint8_t *p = buf_room(out, left > 0 ? left : 1);
	if (p == NULL) {
		rc = ERR_NOMEM;
		goto out;
	}
	while (left > 0) {
		ssize_t n = pread(fd, p, left, st.st_size - (off_t)left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = err_from_errno(errno);
			goto out;
		}
		if (n == 0) /* it shrank meanwhile */
			break;
		p += n;
		out->len += (size_t)n;
		left -= (size_t)n;
	}
	if (st_out != NULL)
		*st_out = st;
out:
	close(fd);
	return rc;
}

int
spool_stat(struct spool *sp, const char *dir, const char *name, struct stat *st_out)
{
	int at, rc;

	rc = name != NULL ? spool_dir_of(sp, dir, name, &at) : dir_open(sp, dir, &at);
	if (rc != 0)
		return rc;
	if (fstatat(at, name != NULL ? name : "", st_out,
		    AT_SYMLINK_NOFOLLOW | (name != NULL ? 0 : AT_EMPTY_PATH)) < 0)
		rc = err_from_errno(errno);
	close(at);
	return rc;
}

int
spool_stat_at(int at, const char *name, struct stat *st_out)
{
	if (!spool_name_ok(name))
		return ERR_USAGE;
	if (fstatat(at, name, st_out, AT_SYMLINK_NOFOLLOW) < 0)
		return err_from_errno(errno);
	return 0;
}

/* ---- names ---- */

int
spool_mkdirs(struct spool *sp, const char *dir, mode_t mode, uid_t uid, gid_t gid)
{
	char part[PATH_LIMIT];
	int at = -1, next, rc;

	if (!path_ok(dir))
		return ERR_USAGE;
	/* The common case: it is there. */
	rc = dir_open(sp, dir, &at);
	if (rc == 0)
		close(at);
	if (rc != ERR_NOTFOUND)
		return rc;
	rc = dir_open(sp, "", &at);
	while (rc == 0 && *dir != '\0') {
		size_t n = strcspn(dir, "/");
		if (n > 0) {
			memcpy(part, dir, n);
			part[n] = '\0';
			rc = spool_open_under(at, part, O_PATH | O_DIRECTORY, 0, &next);
			if (rc == ERR_NOTFOUND && (rc = spool_change(sp)) == 0) {
				if (mkdirat(at, part, 0700) < 0 && errno != EEXIST)
					rc = err_from_errno(errno);
				/* The mode last: until then only we can see inside. */
				else if (fchownat(at, part, uid, gid,
						 AT_SYMLINK_NOFOLLOW) < 0 ||
					 fchmodat(at, part, mode & 07777, 0) < 0)
					rc = err_from_errno(errno);
				else
					rc = spool_open_under(at, part,
						O_PATH | O_DIRECTORY, 0, &next);
			}
			if (rc == 0) {
				close(at);
				at = next;
			}
		}
		dir += n + (dir[n] == '/');
	}
	if (at >= 0)
		close(at);
	return rc;
}

int
spool_link_at(
	struct spool *sp, int from, const char *from_name, int at, const char *name)
{
	int rc;

	spool_tell_losing(sp, at, name);
	if ((rc = spool_change(sp)) != 0)
		return rc;
	if (linkat(from, from_name, at, name, 0) == 0)
		return 0;
	if (errno == EEXIST && unlinkat(at, name, 0) == 0 &&
		linkat(from, from_name, at, name, 0) == 0)
		return 0;
	return err_from_errno(errno);
}

int
spool_link(struct spool *sp, const char *from_dir, const char *from_name,
	const char *dir, const char *name)
{
	int from = -1, to = -1, rc;

	rc = spool_dir_of(sp, from_dir, from_name, &from);
	if (rc == 0)
		rc = spool_dir_of(sp, dir, name, &to);
	if (rc == 0)
		rc = spool_link_at(sp, from, from_name, to, name);
	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	return rc;
}

int
spool_unlink(struct spool *sp, const char *dir, const char *name)
{
	int at, rc;

	rc = spool_dir_of(sp, dir, name, &at);
	if (rc != 0)
		return rc;
	spool_tell_losing(sp, at, name);
	rc = spool_change(sp);
	if (rc == 0 && unlinkat(at, name, 0) < 0)
		rc = err_from_errno(errno);
	close(at);
	return rc;
}

int
spool_rmdir(struct spool *sp, const char *dir)
{
	const char *name;
	int at, rc;

	rc = split(sp, dir, &at, &name);
	if (rc != 0)
		return rc;
	rc = spool_change(sp);
	if (rc == 0 && unlinkat(at, name, AT_REMOVEDIR) < 0)
		rc = errno == ENOTEMPTY || errno == EEXIST ? ERR_EXISTS
							   : err_from_errno(errno);
	close(at);
	return rc;
}

int
spool_move(struct spool *sp, const char *path, const char *to)
{
	const char *from_name, *to_name;
	int from_at = -1, to_at = -1, rc;

	rc = split(sp, path, &from_at, &from_name);
	if (rc == 0)
		rc = split(sp, to, &to_at, &to_name);
	if (rc == 0) {
		spool_tell_losing(sp, to_at, to_name);
		rc = spool_change(sp);
	}
	if (rc == 0 && renameat(from_at, from_name, to_at, to_name) < 0)
		rc = err_from_errno(errno);
	if (from_at >= 0)
		close(from_at);
	if (to_at >= 0)
		close(to_at);
	return rc;
}

/* Which way round the names stood is written down first: to exchange them twice is to undo it. */
int
spool_swap(struct spool *sp, const char *path, const char *other, uint64_t id)
{
	const char *one_name, *two_name;
	uint64_t before[3], now[3] = { id };
	struct buf had = BUF_INIT;
	struct stat one, two;
	int one_at = -1, two_at = -1, rc;

	rc = split(sp, path, &one_at, &one_name);
	if (rc == 0)
		rc = split(sp, other, &two_at, &two_name);
	if (rc == 0 &&
		(fstatat(one_at, one_name, &one, AT_SYMLINK_NOFOLLOW) < 0 ||
			fstatat(two_at, two_name, &two, AT_SYMLINK_NOFOLLOW) < 0))
		rc = err_from_errno(errno);
	if (rc != 0)
		goto out;
	now[1] = one.st_ino;
	now[2] = two.st_ino;
	if (spool_read(sp, STAGING, SWAP, sizeof(before), &had, NULL) == 0 &&
		had.len == sizeof(before)) {
		memcpy(before, had.data, sizeof(before));
		if (before[0] == id && before[1] == now[2] && before[2] == now[1])
			goto out;
	}
	rc = spool_replace(
		sp, STAGING, SWAP, now, sizeof(now), 0600, geteuid(), getegid());
	if (rc == 0)
		rc = spool_change(sp);
	if (rc == 0 &&
		renameat2(one_at, one_name, two_at, two_name, RENAME_EXCHANGE) < 0)
		rc = err_from_errno(errno);
out:
	buf_fini(&had);
	if (one_at >= 0)
		close(one_at);
	if (two_at >= 0)
		close(two_at);
	return rc;
}

int
spool_attrs_at(struct spool *sp, int at, const char *last, uint64_t uid, uint64_t gid,
	uint64_t mode, uint64_t mtime_ns)
{
	struct stat st;
	int rc = 0;

	if (fstatat(at, last, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_from_errno(errno);
	uint64_t had_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
			  (uint64_t)st.st_mtim.tv_nsec;
	bool own = (uid != SPOOL_KEEP && uid != st.st_uid) ||
		   (gid != SPOOL_KEEP && gid != st.st_gid);
	/* A change of owner may take away set-id bits, so the mode comes after it. */
	bool chm = mode != SPOOL_KEEP && !S_ISLNK(st.st_mode) &&
		   (own || (mode & 07777) != (st.st_mode & 07777));
	bool tim = mtime_ns != SPOOL_KEEP && mtime_ns != had_ns;
	if (own && (rc = spool_change(sp)) == 0 &&
		fchownat(at, last, uid != SPOOL_KEEP ? (uid_t)uid : (uid_t)-1,
			gid != SPOOL_KEEP ? (gid_t)gid : (gid_t)-1,
			AT_SYMLINK_NOFOLLOW) < 0)
		rc = err_from_errno(errno);
	if (rc == 0 && chm && (rc = spool_change(sp)) == 0 &&
		fchmodat(at, last, (mode_t)(mode & 07777), 0) < 0)
		rc = err_from_errno(errno);
	if (rc == 0 && tim && (rc = spool_change(sp)) == 0) {
		struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT },
			{ .tv_sec = (time_t)(mtime_ns / 1000000000u),
				.tv_nsec = (long)(mtime_ns % 1000000000u) } };
		if (utimensat(at, last, ts, AT_SYMLINK_NOFOLLOW) < 0)
			rc = err_from_errno(errno);
	}
	return rc;
}

int
spool_attrs(struct spool *sp, const char *dir, const char *name, uint64_t uid,
	uint64_t gid, uint64_t mode, uint64_t mtime_ns)
{
	const char *last = name;
	int at, rc;

	if (name == NULL && dir[0] == '\0')
		rc = dir_open(sp, "", &at), last = ".";
	else if (name == NULL)
		rc = split(sp, dir, &at, &last);
	else
		rc = spool_dir_of(sp, dir, name, &at);
	if (rc != 0)
		return rc;
	rc = spool_attrs_at(sp, at, last, uid, gid, mode, mtime_ns);
	close(at);
	return rc;
}

int
spool_sync(struct spool *sp)
{
	int rc = sp->lost;

	if (rc == 0 && disk_sync_all(sp->root) < 0) {
		log_err("the disk did not keep what was written: nothing counts as "
			"synced until the next start; look at the disk first, then run "
			"twinspool fsck on the spool error=%s",
			strerror(errno));
		sp->lost = rc = err_from_errno(errno);
	}
	return rc;
}
