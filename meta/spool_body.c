/*
 * spool_body.c - bodies outside mailboxes: being received, received, kept aside.
 *
 * staging/tmp-<n>   being received; nobody knows of it, swept by its owner
 * staging/<guid>    complete, its SHA-1 verified; the name is given by rename, so a body is there
 *                   whole or not at all. With sync, its bytes are on disk before the name
 * kept/<guid>       a link to a body that was unlinked in its mailbox but is still named by
 *                   somebody
 */
#include "meta/spool_priv.h"

#include "meta/base/disk.h"
#include "meta/base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGING ".twinspool/staging"
#define KEPT ".twinspool/kept"
#define HEX (2 * SHA1_LEN + 1)

struct spool_stage {
	struct spool *sp;
	struct hash_sha1 *hash;
	int fd;
	char temp[SPOOL_TEMP_NAME];
	uint8_t guid[SHA1_LEN];
	uint64_t size, got;
};

int
spool_stage_open(struct spool *sp, const uint8_t guid[SHA1_LEN], uint64_t size,
	struct spool_stage **out)
{
	struct spool_stage *st = calloc(1, sizeof(*st));
	int rc;

	if (st == NULL)
		return ERR_NOMEM;
	st->sp = sp;
	st->size = size;
	memcpy(st->guid, guid, SHA1_LEN);
	st->hash = hash_sha1_begin();
	if (st->hash == NULL) {
		free(st);
		return ERR_NOMEM;
	}
	rc = spool_temp(sp, st->temp, &st->fd);
	if (rc != 0) {
		uint8_t unused[SHA1_LEN];
		hash_sha1_end(st->hash, unused);
		free(st);
		return rc;
	}
	*out = st;
	return 0;
}

int
spool_stage_write(struct spool_stage *st, const void *p, size_t n)
{
	if (n > st->size - st->got)
		return ERR_BODY;
	int rc = spool_write(st->sp, st->fd, p, n, st->got);
	if (rc != 0)
		return rc;
	hash_sha1_add(st->hash, p, n);
	st->got += n;
	return 0;
}

int
spool_stage_done(struct spool_stage *st, bool sync)
{
	uint8_t sha1[SHA1_LEN];
	char hex[HEX];
	int rc = 0;

	hash_sha1_end(st->hash, sha1);
	if (st->got != st->size || memcmp(sha1, st->guid, SHA1_LEN) != 0)
		rc = ERR_BODY;
	else if (sync && disk_sync(st->fd, DISK_BODY) < 0)
		rc = err_from_errno(errno);
	if (rc == 0) {
		hash_hex(st->guid, SHA1_LEN, hex);
		rc = spool_temp_place(st->sp, st->temp, STAGING, hex);
		atomic_fetch_add(&st->sp->staged, rc == 0);
	}
	if (rc != 0)
		spool_temp_drop(st->sp, st->temp);
	close(st->fd);
	free(st);
	return rc;
}

void
spool_stage_abort(struct spool_stage *st)
{
	uint8_t unused[SHA1_LEN];

	if (st == NULL)
		return;
	hash_sha1_end(st->hash, unused);
	spool_temp_drop(st->sp, st->temp);
	close(st->fd);
	free(st);
}

bool
spool_staged(struct spool *sp, const uint8_t guid[SHA1_LEN])
{
	char hex[HEX];
	struct stat st;

	if (atomic_load(&sp->staged) <= 0)
		return false;
	hash_hex(guid, SHA1_LEN, hex);
	return spool_stat(sp, STAGING, hex, &st) == 0;
}

int
spool_stage_sync(struct spool *sp, const uint8_t guid[SHA1_LEN])
{
	char hex[HEX];
	int fd, rc;

	hash_hex(guid, SHA1_LEN, hex);
	if ((rc = spool_file(sp, STAGING, hex, O_RDONLY | O_NOFOLLOW, 0, &fd)) != 0)
		return rc;
	/* Its name as well: the file was renamed in a transaction that this one waits for. */
	if (disk_sync(fd, DISK_BODY) < 0)
		rc = err_from_errno(errno);
	close(fd);
	return rc;
}

int
spool_stage_take(
	struct spool *sp, const uint8_t guid[SHA1_LEN], const struct spool_place *to)
{
	char hex[HEX];

	if (atomic_load(&sp->staged) <= 0)
		return ERR_NOTFOUND;
	hash_hex(guid, SHA1_LEN, hex);
	int rc = spool_rename_to(sp, sp->staging, hex, to);
	if (rc == 0)
		atomic_fetch_sub(&sp->staged, 1);
	return rc;
}

void
spool_stage_drop(struct spool *sp, const uint8_t guid[SHA1_LEN])
{
	char hex[HEX];

	if (atomic_load(&sp->staged) <= 0)
		return;
	hash_hex(guid, SHA1_LEN, hex);
	if (spool_unlink(sp, STAGING, hex) == 0)
		atomic_fetch_sub(&sp->staged, 1);
}

int
spool_keep(struct spool *sp, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name)
{
	struct stat st;
	char hex[HEX];

	hash_hex(guid, SHA1_LEN, hex);
	if (spool_stat(sp, KEPT, hex, &st) == 0)
		return 0;
	return spool_link(sp, dir, name, KEPT, hex);
}

int
spool_kept_open(struct spool *sp, const uint8_t guid[SHA1_LEN], int *fd_out)
{
	char hex[HEX];

	hash_hex(guid, SHA1_LEN, hex);
	return spool_file(sp, KEPT, hex, O_RDONLY, 0, fd_out);
}

int
spool_kept_link(struct spool *sp, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name)
{
	char hex[HEX];

	hash_hex(guid, SHA1_LEN, hex);
	return spool_link(sp, KEPT, hex, dir, name);
}

void
spool_kept_drop(struct spool *sp, const uint8_t guid[SHA1_LEN])
{
	char hex[HEX];

	hash_hex(guid, SHA1_LEN, hex);
	(void)spool_unlink(sp, KEPT, hex);
}

int
spool_kept_since(struct spool *sp, const uint8_t guid[SHA1_LEN], uint64_t *since_ns_out)
{
	struct stat st;
	char hex[HEX];

	hash_hex(guid, SHA1_LEN, hex);
	int rc = spool_stat(sp, KEPT, hex, &st);
	if (rc == 0)
		*since_ns_out = (uint64_t)st.st_ctim.tv_sec * 1000000000 +
				(uint64_t)st.st_ctim.tv_nsec;
	return rc;
}

int
spool_kept_walk(struct spool *sp, void (*fn)(void *arg, const uint8_t guid[SHA1_LEN]),
	void *arg)
{
	uint8_t guid[SHA1_LEN];
	struct dirent *e;
	int fd, rc;

	rc = spool_file(sp, KEPT, NULL, O_RDONLY | O_DIRECTORY, 0, &fd);
	if (rc != 0)
		return rc;
	DIR *d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return ERR_NOMEM;
	}
	while ((e = readdir(d)) != NULL)
		if (hash_unhex(e->d_name, guid, SHA1_LEN) == 0)
			fn(arg, guid);
	closedir(d);
	return 0;
}
