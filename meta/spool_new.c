/*
 * spool_new.c - files that come into being: whole under their name, or not there.
 */
#include "meta/spool_priv.h"

#include "meta/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void
temp_name(struct spool *sp, char out[SPOOL_TEMP_NAME])
{
	snprintf(out, SPOOL_TEMP_NAME, "tmp-%lu", atomic_fetch_add(&sp->next_temp, 1));
}

int
spool_temp(struct spool *sp, char *name_out, int *fd_out)
{
	int rc;

	temp_name(sp, name_out);
	rc = spool_change(sp);
	if (rc != 0)
		return rc;
	return spool_open_under(
		sp->staging, name_out, O_RDWR | O_CREAT | O_EXCL, 0600, fd_out);
}

int
spool_temp_place(struct spool *sp, const char *temp, const char *dir, const char *name)
{
	int at, rc;

	rc = spool_dir_of(sp, dir, name, &at);
	if (rc != 0)
		return rc;
	spool_tell_losing(sp, at, name);
	rc = spool_change(sp);
	if (rc == 0 && renameat(sp->staging, temp, at, name) < 0)
		rc = err_from_errno(errno);
	close(at);
	return rc;
}

void
spool_temp_drop(struct spool *sp, const char *temp)
{
	if (spool_change(sp) == 0)
		unlinkat(sp->staging, temp, 0);
}

int
spool_write(struct spool *sp, int fd, const void *p, size_t n, uint64_t offset)
{
	int rc = spool_change(sp);

	while (rc == 0 && n > 0) {
		ssize_t w = pwrite(fd, p, n, (off_t)offset);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? err_from_errno(errno) : ERR_IO;
		p = (const uint8_t *)p + w;
		n -= (size_t)w;
		offset += (uint64_t)w;
	}
	return rc;
}

int
spool_copy(struct spool *sp, int from, int to, uint64_t n)
{
	size_t size = 256u << 10;
	uint8_t *p = malloc(size);
	uint64_t at = 0;
	int rc = p != NULL ? 0 : ERR_NOMEM;

	while (rc == 0 && at < n) {
		size_t want = n - at < size ? (size_t)(n - at) : size;
		ssize_t got = pread(from, p, want, (off_t)at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			rc = got < 0 ? err_from_errno(errno) : ERR_IO;
		else
			rc = spool_write(sp, to, p, (size_t)got, at);
		if (rc == 0)
			at += (uint64_t)got;
	}
	free(p);
	return rc;
}

int
spool_replace(struct spool *sp, const char *dir, const char *name, const void *p,
	size_t n, mode_t mode, uid_t uid, gid_t gid)
{
	char temp[SPOOL_TEMP_NAME];
	int fd, rc;

	rc = spool_temp(sp, temp, &fd);
	if (rc != 0)
		return rc;
	rc = spool_write(sp, fd, p, n, 0);
	if (rc == 0 && (fchown(fd, uid, gid) < 0 || fchmod(fd, mode & 07777) < 0))
		rc = err_from_errno(errno);
	if (rc == 0)
		rc = spool_temp_place(sp, temp, dir, name);
	if (rc != 0)
		spool_temp_drop(sp, temp);
	close(fd);
	return rc;
}

int
spool_symlink(struct spool *sp, const char *target, const char *dir, const char *name)
{
	char temp[SPOOL_TEMP_NAME];
	int rc;

	temp_name(sp, temp);
	rc = spool_change(sp);
	if (rc == 0 && symlinkat(target, sp->staging, temp) < 0)
		rc = err_from_errno(errno);
	if (rc != 0)
		return rc;
	rc = spool_temp_place(sp, temp, dir, name);
	if (rc != 0)
		spool_temp_drop(sp, temp);
	return rc;
}

int
spool_mknod(
	struct spool *sp, mode_t mode, uint64_t rdev, const char *dir, const char *name)
{
	char temp[SPOOL_TEMP_NAME];
	int rc;

	temp_name(sp, temp);
	rc = spool_change(sp);
	if (rc == 0 && mknodat(sp->staging, temp, mode, (dev_t)rdev) < 0)
		rc = err_from_errno(errno);
	if (rc != 0)
		return rc;
	rc = spool_temp_place(sp, temp, dir, name);
	if (rc != 0)
		spool_temp_drop(sp, temp);
	return rc;
}

/* ---- a file at once ---- */

/* The folder of a place; close it if it is not place->at. */
static int
folder_of(struct spool *sp, const struct spool_place *to, int *at_out)
{
	if (to->at < 0)
		return spool_dir_of(sp, to->dir, to->name, at_out);
	*at_out = to->at;
	return spool_name_ok(to->name) ? 0 : ERR_USAGE;
}

/* Not over another file. Not every file system can say so in one call. */
static int
rename_new(int from_at, const char *from, int at, const char *name)
{
	if (renameat2(from_at, from, at, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno == EINVAL && linkat(from_at, from, at, name, 0) == 0 &&
		unlinkat(from_at, from, 0) == 0)
		return 0;
	return err_from_errno(errno);
}

int
spool_rename_to(
	struct spool *sp, int from_at, const char *from, const struct spool_place *to)
{
	int at, rc;

	rc = folder_of(sp, to, &at);
	if (rc != 0)
		return rc;
	if (to->over)
		spool_tell_losing(sp, at, to->name);
	rc = spool_change(sp);
	if (rc == 0 && to->over && renameat(from_at, from, at, to->name) < 0)
		rc = err_from_errno(errno);
	if (rc == 0 && !to->over)
		rc = rename_new(from_at, from, at, to->name);
	if (rc == 0)
		rc = spool_attrs_at(
			sp, at, to->name, to->uid, to->gid, to->mode, to->mtime_ns);
	if (at != to->at)
		close(at);
	return rc;
}

/* Owner and mode only where creation did not give them already. */
static int
dress(int fd, const struct spool_place *to)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_from_errno(errno);
	uid_t uid = to->uid != SPOOL_KEEP ? (uid_t)to->uid : st.st_uid;
	gid_t gid = to->gid != SPOOL_KEEP ? (gid_t)to->gid : st.st_gid;
	mode_t mode =
		to->mode != SPOOL_KEEP ? (mode_t)to->mode & 07777 : st.st_mode & 07777;
	bool own = uid != st.st_uid || gid != st.st_gid;
	/* A change of owner may take away set-id bits. */
	bool chm = mode != (st.st_mode & 07777) || (own && (mode & 07000) != 0);
	if ((own && fchown(fd, uid, gid) < 0) || (chm && fchmod(fd, mode) < 0))
		return err_from_errno(errno);
	if (to->mtime_ns == SPOOL_KEEP)
		return 0;
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT },
		{ .tv_sec = (time_t)(to->mtime_ns / 1000000000u),
			.tv_nsec = (long)(to->mtime_ns % 1000000000u) } };
	return futimens(fd, ts) < 0 ? err_from_errno(errno) : 0;
}

static int
make_temp(struct spool *sp, const struct spool_place *to, const void *p, size_t n)
{
	char temp[SPOOL_TEMP_NAME];
	struct spool_place bare = *to;
	int fd, rc;

	rc = spool_temp(sp, temp, &fd);
	if (rc != 0)
		return rc;
	rc = spool_write(sp, fd, p, n, 0);
	if (rc == 0)
		rc = dress(fd, to);
	close(fd);
	bare.uid = bare.gid = bare.mode = bare.mtime_ns = SPOOL_KEEP;
	if (rc == 0)
		rc = spool_rename_to(sp, sp->staging, temp, &bare);
	if (rc != 0)
		spool_temp_drop(sp, temp);
	return rc;
}

/* A file without a name in its own folder, linked when it is complete: one name is written
 * instead of two, the folder's disk group is the right one, and a crash leaves nothing. */
int
spool_make(struct spool *sp, const struct spool_place *to, const void *p, size_t n)
{
	mode_t mode = to->mode != SPOOL_KEEP ? (mode_t)to->mode & 0777 : 0600;
	int at, fd, rc;

	if (to->over || atomic_load(&sp->no_tmpfile))
		return make_temp(sp, to, p, n);
	rc = folder_of(sp, to, &at);
	if (rc == 0 && (rc = spool_change(sp)) != 0 && at != to->at)
		close(at);
	if (rc != 0)
		return rc;
	fd = openat(at, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
	if (fd < 0) {
		rc = err_from_errno(errno);
		bool none = errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL;
		if (at != to->at)
			close(at);
		if (!none)
			return rc;
		atomic_store(&sp->no_tmpfile, true);
		return make_temp(sp, to, p, n);
	}
	rc = spool_write(sp, fd, p, n, 0);
	if (rc == 0)
		rc = dress(fd, to);
	if (rc == 0)
		rc = spool_change(sp);
	if (rc == 0 && linkat(fd, "", at, to->name, AT_EMPTY_PATH) < 0)
		rc = err_from_errno(errno);
	close(fd);
	if (at != to->at)
		close(at);
	return rc;
}
