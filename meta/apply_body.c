/*
 * apply_body.c - messages put in place before anything names them, and taken away after nothing
 * does. A message is there whole and verified, or not at all: what comes from staging was hashed
 * there, what is linked is proven by the record that names it or by its own bytes.
 */
#include "meta/apply.h"

#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* So many, and other threads may help. */
#define SPREAD_FROM 32

static bool
file_is(int at, const char *name, const uint8_t *guid, uint64_t size)
{
	uint8_t sha1[SHA1_LEN];
	uint64_t has;
	struct stat st;
	int fd;

	if (spool_file_at(at, name, O_RDONLY | O_NONBLOCK, &fd) != 0)
		return false;
	bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
		    (uint64_t)st.st_size == size && hash_sha1_fd(fd, sha1, &has) == 0 &&
		    has == size && memcmp(sha1, guid, SHA1_LEN) == 0;
	close(fd);
	return same;
}

static void
source_close(struct apply *a)
{
	struct apply_source *s = &a->source;

	if (s->dir == NULL)
		return;
	ixfile_close(&s->ix);
	if (s->at >= 0)
		close(s->at);
	if (s->cache >= 0)
		close(s->cache);
	s->dir = NULL;
}

/* Of a COPY it is the same for all messages. One that came there meanwhile is behind the index as it
 * was opened. */
static int
source_open(struct apply *a, const char *dir, uint32_t uid)
{
	struct apply_source *s = &a->source;

	if (s->dir != NULL && strcmp(s->dir, dir) == 0 && s->ix.open &&
		uid <= s->ix.h.last_uid)
		return 0;
	source_close(a);
	*s = (struct apply_source){ .dir = dir, .at = -1, .cache = -1 };
	int rc = spool_file(a->sp, dir, NULL, O_PATH | O_DIRECTORY, 0, &s->at);
	if (rc == 0)
		(void)ixfile_open(a->sp, dir, false, &s->ix);
	return rc;
}

static void
cache_from(struct apply *a, const struct index_record *r, bool bare,
	struct apply_item *item)
{
	struct apply_source *s = &a->source;

	if (item->cache != NULL || item->now.cache_offset != 0 ||
		(item->now.cache_crc == 0 && !bare) ||
		r->cache_crc != item->now.cache_crc || item->cache_own != NULL)
		return;
	if (s->cache == -1 &&
		spool_file_at(s->at, "cyrus.cache", O_RDONLY, &s->cache) != 0)
		s->cache = -2;
	if (s->cache >= 0 && cache_record_read(s->cache, r->cache_offset, r->cache_crc,
				     &item->cache_own, &item->cache_len) == 0)
		item->cache = item->cache_own;
	if (item->cache != NULL && bare)
		item->now.cache_version = r->cache_version;
}

/* A link of a message elsewhere: its record there names the GUID, or its bytes prove it. */
static int
link_from(
	struct apply *a, const char *dir, uint32_t uid, struct apply_item *item, int at)
{
	const struct apply_source *s = &a->source;
	char from[SCAN_BODY_NAME], name[SCAN_BODY_NAME];
	struct index_record r = { .uid = 0 };
	struct stat st;
	bool proven = false, bare = false;
	uint32_t recno;
	int rc = source_open(a, dir, uid);

	if (rc != 0)
		return rc;
	scan_body_name(uid, from);
	scan_body_name(item->uid, name);
	if (s->ix.open) {
		proven = ixfile_find(&s->ix, uid, &recno) == 0 &&
			 ixfile_record(&s->ix, recno, &r) == 0 &&
			 memcmp(r.guid, item->now.guid, SHA1_LEN) == 0;
		/* Version 10 has no CRC of the cache on either side. */
		bare = proven && a->mode == MBOX_CHECK && a->h.minor_version < 12 &&
		       s->ix.h.minor_version < 12;
	}
	/* After a crash the bytes behind a record may not be what they were. */
	if (proven && a->mode == MBOX_CHECK)
		proven = spool_stat_at(s->at, from, &st) == 0 && S_ISREG(st.st_mode) &&
			 (uint64_t)st.st_size == item->now.size;
	else
		proven = false;
	if (!proven && !file_is(s->at, from, item->now.guid, item->now.size))
		return ERR_NOTFOUND;
	if (r.uid != 0)
		cache_from(a, &r, bare, item);
	return spool_link_at(a->sp, s->at, from, at, name);
}

/* Does a later record of the batch want the same message? The peer sends it once for all. */
static bool
wanted_again(const struct apply *a, const struct apply_item *item)
{
	for (const struct apply_item *x = item + 1; x < a->items + a->n; x++)
		if (!x->skip && x->body &&
			memcmp(x->now.guid, item->now.guid, SHA1_LEN) == 0)
			return true;
	return false;
}

/* From what arrived. A file that has the name already proves itself by its bytes: it may be
 * debris (F17). */
static int
place_arrived(struct apply *a, struct apply_item *item, struct spool_place *to)
{
	const struct mbox_env *env = a->env;
	const uint8_t *guid = item->now.guid;
	int rc = ERR_NOTFOUND;

	if (env->take_body != NULL)
		rc = env->take_body(env->arg, guid, to);
	if (rc != ERR_EXISTS && rc != ERR_NOTFOUND)
		return rc;
	if (file_is(to->at, to->name, guid, item->now.size)) {
		if (rc == ERR_EXISTS && env->drop_body != NULL &&
			!wanted_again(a, item))
			env->drop_body(env->arg, guid);
		return spool_attrs_at(a->sp, to->at, to->name, to->uid, to->gid,
			to->mode, to->mtime_ns);
	}
	if (rc == ERR_NOTFOUND)
		return rc;
	to->over = true;
	return env->take_body(env->arg, guid, to);
}

static struct spool_place
place_of(const struct apply *a, const struct apply_item *item, int at,
	char name[SCAN_BODY_NAME])
{
	const struct change_body usual = { item->uid, a->owner.uid, a->owner.gid,
		a->owner.message_mode };
	const struct change_body *file = item->file != NULL ? item->file : &usual;

	return (struct spool_place){ at, a->b->dir, scan_body_name(item->uid, name),
		file->owner, file->group, file->mode, item->now.internaldate, false };
}

static int
place_body(struct apply *a, struct apply_item *item, int at)
{
	const char *dir = a->b->dir;
	const struct change_record *c = item->c;
	char name[SCAN_BODY_NAME];
	struct spool_place to = place_of(a, item, at, name);
	int rc;

	if (item->keep && file_is(at, name, item->old.guid, item->old.size)) {
		rc = spool_keep(a->sp, item->old.guid, dir, name);
		if (rc != 0)
			return rc;
	}
	rc = place_arrived(a, item, &to);
	FAULT("apply.body");
	if (rc != ERR_NOTFOUND)
		return rc;
	if (c != NULL && c->ref_dir != NULL)
		rc = link_from(a, c->ref_dir, c->ref_uid, item, at);
	if (rc == ERR_NOTFOUND && a->b->from_dir != NULL)
		rc = link_from(a, a->b->from_dir, item->uid, item, at);
	bool kept = rc == ERR_NOTFOUND;
	if (kept)
		rc = spool_kept_link(a->sp, item->now.guid, dir, name);
	/* After a power cut what was staged or kept may be torn as well; and what is kept may be from
	 * any earlier life. */
	if (rc == 0 && (kept || a->mode != MBOX_CHECK) &&
		!file_is(at, name, item->now.guid, item->now.size))
		rc = ERR_NOTFOUND;
	if (rc != 0)
		return rc == ERR_NOTFOUND ? ERR_NEED : rc;
	FAULT("apply.link");
	return spool_attrs_at(
		a->sp, at, name, to.uid, to.gid, to.mode, item->now.internaldate);
}

struct placing {
	struct apply *a;
	int at;
};

/* One that came as bytes, which no other of the batch waits for. What is not placed, for whatever
 * reason, is left to place_body. */
static void
place_one(void *arg, size_t i)
{
	const struct placing *p = arg;
	struct apply_item *item = &p->a->items[i];
	char name[SCAN_BODY_NAME];

	if (item->skip || !item->body || item->keep ||
		(item->c != NULL && item->c->ref_dir != NULL))
		return;
	struct spool_place to = place_of(p->a, item, p->at, name);
	item->placed = place_arrived(p->a, item, &to) == 0;
	FAULT("apply.body");
}

static int
by_uid(const void *key, const void *item)
{
	uint32_t uid = *(const uint32_t *)key;
	const struct apply_item *it = item;

	return uid < it->uid ? -1 : uid > it->uid;
}

/* Messages whose owner or mode is not what the mailbox's messages have. */
static void
find_files(struct apply *a)
{
	for (size_t i = 0; i < a->b->n; i++) {
		const struct change *c = &a->b->changes[i];
		if (c->kind != CHANGE_BODY || a->n == 0)
			continue;
		struct apply_item *item = bsearch(
			&c->u.body.uid, a->items, a->n, sizeof(*a->items), by_uid);
		if (item != NULL)
			item->file = &c->u.body;
	}
}

int
apply_bodies(struct apply *a)
{
	bool any = !a->exists;
	int missing = 0, at = -1, rc = 0;

	for (size_t i = 0; i < a->n && !any; i++)
		any = !a->items[i].skip && a->items[i].body;
	if (!any)
		return 0;
	find_files(a);
	if (!a->exists)
		rc = spool_mkdirs(a->sp, a->b->dir, a->owner.dir_mode, a->owner.uid,
			a->owner.gid);
	if (rc == 0)
		rc = spool_file(a->sp, a->b->dir, NULL, O_PATH | O_DIRECTORY, 0, &at);
	struct placing p = { a, at };
	if (rc == 0 && a->n >= SPREAD_FROM && a->b->from_dir == NULL &&
		a->env->spread != NULL)
		a->env->spread(a->env->arg, place_one, &p, a->n);
	/* All that can be had are placed, so that the next call asks for the next one. */
	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		if (item->skip || !item->body || item->placed)
			continue;
		rc = place_body(a, item, at);
		if (rc != ERR_NEED)
			continue;
		rc = 0;
		if (missing == 0 && a->need != NULL) {
			a->need->path[0] = '\0';
			memcpy(a->need->guid, item->now.guid, SHA1_LEN);
			a->need->size = item->now.size;
			a->need->uid = item->uid;
		}
		missing = ERR_NEED;
	}
	source_close(a);
	if (at >= 0)
		close(at);
	return rc != 0 ? rc : missing;
}

int
apply_unlinks(struct apply *a)
{
	char name[SCAN_BODY_NAME];
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		const struct apply_item *item = &a->items[i];
		const uint8_t *guid = item->drop ? item->old.guid : item->now.guid;
		if (item->skip || !item->unlink)
			continue;
		scan_body_name(item->uid, name);
		if (item->keep || apply_keeps(a->env, guid))
			rc = spool_keep(a->sp, guid, a->b->dir, name);
		FAULT("apply.unlink");
		if (rc == 0 || rc == ERR_NOTFOUND)
			rc = spool_unlink(a->sp, a->b->dir, name);
		if (rc == ERR_NOTFOUND)
			rc = 0;
	}
	return rc;
}

static int
move_aside(struct apply *a, const char *name)
{
	uint8_t guid[SHA1_LEN];
	uint64_t size;
	int fd, rc;

	rc = spool_file(a->sp, a->b->dir, name, O_RDONLY | O_NONBLOCK, 0, &fd);
	if (rc != 0)
		return rc == ERR_NOTFOUND ? 0 : rc;
	rc = hash_sha1_fd(fd, guid, &size);
	close(fd);
	if (rc == 0)
		rc = spool_keep(a->sp, guid, a->b->dir, name);
	if (rc == 0)
		rc = spool_unlink(a->sp, a->b->dir, name);
	return rc;
}

int
apply_strays(struct apply *a)
{
	struct index_record r;
	struct dirent *e;
	struct ixfile ix;
	uint32_t at;
	int fd, rc;

	rc = ixfile_open(a->sp, a->b->dir, true, &ix);
	if (rc != 0)
		return rc;
	rc = spool_file(a->sp, a->b->dir, NULL, O_RDONLY | O_DIRECTORY, 0, &fd);
	DIR *d = rc == 0 ? fdopendir(fd) : NULL;
	if (d == NULL) {
		if (rc == 0)
			close(fd);
		ixfile_close(&ix);
		return rc != 0 ? rc : ERR_NOMEM;
	}
	while (rc == 0 && (e = readdir(d)) != NULL) {
		unsigned long uid = strtoul(e->d_name, NULL, 10);
		if (!spool_name_is_mbox(e->d_name) || uid == 0 || uid > UINT32_MAX)
			continue;
		if (ixfile_find(&ix, (uint32_t)uid, &at) != 0 ||
			(ixfile_record(&ix, at, &r) == 0 &&
				(r.flags & INDEX_FLAG_UNLINKED) != 0))
			rc = move_aside(a, e->d_name);
	}
	closedir(d);
	ixfile_close(&ix);
	return rc;
}
