/*
 * apply_write.c - the steps of a plan on the disk, in Cyrus's own order (F7.2):
 *
 *   bodies -> cyrus.cache -> cyrus.annotations -> cyrus.header -> records -> index header
 *
 * A crash in between leaves, as with Cyrus: messages that no record names (found again by their
 * SHA-1 when the batch is redone), cache records that nobody points to, annotations and names
 * newer than the index, and records newer than the header. Each step writes results, not
 * differences, so the redo arrives where the first run would have.
 *
 * cyrus.index and cyrus.cache are written in place while the kernel does not know their inodes;
 * else a copy is changed and renamed over. When records are dropped or inserted, or the index
 * changes its version, both are made anew, the cache first: between the two renames the old
 * index points into the new cache, and whoever reads a record there sees a wrong CRC. The redo
 * finds the cache records of such a file by walking it, since it is compact.
 */
#include "meta/apply.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/cache.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CACHE_MAX_FILE ((size_t)1 << 30)
#define FLUSH_AT ((size_t)1 << 20)

void
apply_changed(struct apply *a, const char *dir, const char *name)
{
	if (a->env->changed != NULL)
		a->env->changed(a->env->arg, dir, name);
}

bool
apply_keeps(const struct mbox_env *env, const uint8_t guid[SHA1_LEN])
{
	return env->keep_body != NULL && env->keep_body(env->arg, guid);
}

/* ---- bodies ---- */

static bool
file_is(struct apply *a, const char *dir, const char *name, const uint8_t *guid,
	uint64_t size)
{
	uint8_t sha1[SHA1_LEN];
	uint64_t has;
	struct stat st;
	int fd;

	if (spool_file(a->sp, dir, name, O_RDONLY | O_NONBLOCK, 0, &fd) != 0)
		return false;
	bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
		    (uint64_t)st.st_size == size && hash_sha1_fd(fd, sha1, &has) == 0 &&
		    has == size && memcmp(sha1, guid, SHA1_LEN) == 0;
	close(fd);
	return same;
}

static void
cache_from(struct apply *a, const char *dir, const struct index_record *r,
	struct apply_item *item)
{
	int fd;

	if (item->cache != NULL || item->now.cache_offset != 0 ||
		item->now.cache_crc == 0 || r->cache_crc != item->now.cache_crc ||
		item->cache_own != NULL)
		return;
	if (spool_file(a->sp, dir, "cyrus.cache", O_RDONLY, 0, &fd) != 0)
		return;
	if (cache_record_read(fd, r->cache_offset, r->cache_crc, &item->cache_own,
		    &item->cache_len) == 0)
		item->cache = item->cache_own;
	close(fd);
}

/* A link of a message elsewhere: its record there names the GUID, or its bytes prove it. */
static int
link_from(struct apply *a, const char *dir, uint32_t uid, struct apply_item *item)
{
	char from[SCAN_BODY_NAME], name[SCAN_BODY_NAME];
	struct index_record r = { .uid = 0 };
	struct ixfile ix;
	struct stat st;
	bool proven = false;
	uint32_t at;

	scan_body_name(uid, from);
	scan_body_name(item->uid, name);
	if (ixfile_open(a->sp, dir, false, &ix) == 0) {
		proven = ixfile_find(&ix, uid, &at) == 0 &&
			 ixfile_record(&ix, at, &r) == 0 &&
			 memcmp(r.guid, item->now.guid, SHA1_LEN) == 0;
		ixfile_close(&ix);
	}
	if (proven)
		proven = spool_stat(a->sp, dir, from, &st) == 0 &&
			 S_ISREG(st.st_mode) && (uint64_t)st.st_size == item->now.size;
	if (!proven && !file_is(a, dir, from, item->now.guid, item->now.size))
		return ERR_NOTFOUND;
	if (r.uid != 0)
		cache_from(a, dir, &r, item);
	return spool_link(a->sp, dir, from, a->b->dir, name);
}

static int
place_body(struct apply *a, struct apply_item *item)
{
	const char *dir = a->b->dir;
	const struct change_record *c = item->c;
	char name[SCAN_BODY_NAME];
	int rc = ERR_NOTFOUND;

	scan_body_name(item->uid, name);
	if (item->keep && file_is(a, dir, name, item->old.guid, item->old.size)) {
		rc = spool_keep(a->sp, item->old.guid, dir, name);
		if (rc != 0)
			return rc;
		rc = ERR_NOTFOUND;
	}
	/* What is there already proves itself by its bytes: it may be debris (F17). */
	if (file_is(a, dir, name, item->now.guid, item->now.size))
		rc = 0;
	else if (a->env->take_body != NULL)
		rc = a->env->take_body(a->env->arg, item->now.guid, dir, name);
	if (rc == ERR_NOTFOUND && c != NULL && c->ref_dir != NULL)
		rc = link_from(a, c->ref_dir, c->ref_uid, item);
	if (rc == ERR_NOTFOUND && a->b->from_dir != NULL)
		rc = link_from(a, a->b->from_dir, item->uid, item);
	if (rc == ERR_NOTFOUND)
		rc = spool_kept_link(a->sp, item->now.guid, dir, name);
	if (rc != 0)
		return rc == ERR_NOTFOUND ? ERR_NEED : rc;
	FAULT("apply.body");
	return spool_attrs(a->sp, dir, name, a->owner.uid, a->owner.gid,
		a->owner.message_mode, item->now.internaldate);
}

int
apply_bodies(struct apply *a)
{
	int missing = 0, rc;

	rc = spool_mkdirs(
		a->sp, a->b->dir, a->owner.dir_mode, a->owner.uid, a->owner.gid);
	/* All that can be had are placed, so that the next call asks for the next one. */
	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		if (item->skip || !item->body)
			continue;
		rc = place_body(a, item);
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
	return rc != 0 ? rc : missing;
}

/* ---- a file that is changed in place or through a copy ---- */

struct edit {
	const char *name;
	int fd;
	uint64_t size; /* of what it had */
	bool open, in_place;
	char temp[SPOOL_TEMP_NAME];
};

static int
edit_begin(struct apply *a, const char *name, bool anew, struct edit *e)
{
	const struct mbox_env *env = a->env;
	const char *dir = a->b->dir;
	struct stat st;
	int from = -1, rc;

	memset(e, 0, sizeof(*e));
	e->name = name;
	rc = anew ? ERR_NOTFOUND : spool_file(a->sp, dir, name, O_RDWR, 0, &from);
	if (rc != 0 && rc != ERR_NOTFOUND)
		return rc;
	if (rc == 0 && (fstat(from, &st) < 0 || !S_ISREG(st.st_mode))) {
		close(from);
		return ERR_MANGLED;
	}
	if (rc == 0)
		e->size = (uint64_t)st.st_size;
	if (rc == 0 && (env->begin_in_place == NULL ||
			       env->begin_in_place(env->arg, dir, name))) {
		e->fd = from;
		e->open = e->in_place = true;
		return 0;
	}
	rc = spool_temp(a->sp, e->temp, &e->fd);
	e->open = rc == 0;
	if (rc == 0 && from >= 0)
		rc = spool_copy(a->sp, from, e->fd, e->size);
	if (from >= 0)
		close(from);
	if (rc != 0 && e->open) {
		close(e->fd);
		spool_temp_drop(a->sp, e->temp);
		e->open = false;
	}
	return rc;
}

/* Gives it its name if rc is 0, else forgets it. A copy is synced first, or a power cut could
 * leave its name on an empty file. */
static int
edit_end(struct apply *a, struct edit *e, uint32_t mode, int rc)
{
	if (!e->open)
		return rc;
	e->open = false;
	if (e->in_place) {
		close(e->fd);
		if (a->env->end_in_place != NULL)
			a->env->end_in_place(a->env->arg, a->b->dir, e->name);
		return rc;
	}
	if (rc == 0 && (fchown(e->fd, a->owner.uid, a->owner.gid) < 0 ||
			       fchmod(e->fd, mode & 07777) < 0 || fdatasync(e->fd) < 0))
		rc = err_from_errno(errno);
	if (rc == 0)
		rc = spool_temp_place(a->sp, e->temp, a->b->dir, e->name);
	if (rc != 0)
		spool_temp_drop(a->sp, e->temp);
	else
		apply_changed(a, a->b->dir, e->name);
	close(e->fd);
	return rc;
}

static int
put_file(struct apply *a, const char *name, const void *p, size_t n, uint32_t mode)
{
	struct edit e;
	int rc = edit_begin(a, name, true, &e);

	if (rc == 0)
		rc = spool_write(a->sp, e.fd, p, n, 0);
	return edit_end(a, &e, mode, rc);
}

/* ---- cache, appended ---- */

static void
no_cache(struct index_record *r)
{
	r->cache_offset = 0;
	r->cache_crc = r->cache_version = 0;
}

static int
append_cache(struct apply *a)
{
	struct buf out = BUF_INIT;
	struct edit e = { .open = false };
	int rc = 0;
	bool any = false;

	for (size_t i = 0; i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		any = any || (!item->skip && item->cache != NULL);
		if (!item->skip && item->cache == NULL && !item->drop &&
			item->now.cache_offset == 0)
			no_cache(&item->now);
	}
	if (!any)
		return 0;
	rc = edit_begin(a, "cyrus.cache", !a->exists, &e);
	uint64_t at = rc == 0 ? e.size : 0;
	if (rc == 0 && at < 4) {
		wr_be32(&out, a->h.generation_no);
		at = 4;
		rc = spool_write(a->sp, e.fd, out.data, out.len, 0);
		buf_clear(&out);
	}
	/* What a crash cut off may end anywhere. */
	at = (at + 3) & ~(uint64_t)3;
	uint64_t start = at;
	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		if (item->skip || item->cache == NULL)
			continue;
		item->now.cache_offset = start + out.len;
		buf_put(&out, item->cache, item->cache_len);
		if (out.len < FLUSH_AT)
			continue;
		rc = buf_ok(&out);
		if (rc == 0)
			rc = spool_write(a->sp, e.fd, out.data, out.len, start);
		start += out.len;
		buf_clear(&out);
	}
	if (rc == 0)
		rc = buf_ok(&out);
	if (rc == 0 && out.len > 0)
		rc = spool_write(a->sp, e.fd, out.data, out.len, start);
	FAULT("apply.cache");
	buf_fini(&out);
	return edit_end(a, &e, a->owner.cache_mode, rc);
}

/* ---- annotations, names, owner ---- */

static int
write_owner(struct apply *a)
{
	static const char *const files[] = { "cyrus.index", "cyrus.header",
		"cyrus.cache", "cyrus.annotations" };
	const struct change_owner *o = &a->owner;
	const uint32_t modes[] = { o->index_mode, o->index_mode, o->cache_mode,
		o->annot_mode };
	bool stated = false;

	for (size_t i = 0; i < a->b->n; i++)
		stated = stated || a->b->changes[i].kind == CHANGE_OWNER;
	if (!stated)
		return 0;
	int rc = spool_attrs(
		a->sp, a->b->dir, NULL, o->uid, o->gid, o->dir_mode, SPOOL_KEEP);
	for (size_t i = 0; rc == 0 && i < 4; i++) {
		rc = spool_attrs(a->sp, a->b->dir, files[i], o->uid, o->gid, modes[i],
			SPOOL_KEEP);
		if (rc == ERR_NOTFOUND)
			rc = 0;
	}
	return rc;
}

static int
write_annots(struct apply *a)
{
	struct buf out = BUF_INIT;

	if (!a->annots_changed)
		return 0;
	int rc = scan_annots_build(&a->annots_new, &out);
	if (rc == 0)
		rc = put_file(
			a, "cyrus.annotations", out.data, out.len, a->owner.annot_mode);
	buf_fini(&out);
	FAULT("apply.annots");
	return rc;
}

static int
write_names(struct apply *a)
{
	struct buf now = BUF_INIT;
	int rc;

	if (a->names_change == NULL)
		return 0;
	rc = spool_read(a->sp, a->b->dir, "cyrus.header", HEADER_MAX_FILE, &now, NULL);
	bool same = rc == 0 && now.len == a->names_change->n &&
		    memcmp(now.data, a->names_change->p, now.len) == 0;
	buf_fini(&now);
	if (same)
		return 0;
	rc = put_file(a, "cyrus.header", a->names_change->p, a->names_change->n,
		a->owner.index_mode);
	FAULT("apply.names");
	return rc;
}

/* ---- the index, record by record ---- */

static int
write_records(struct apply *a)
{
	uint8_t p[INDEX_MAX_HEADER > INDEX_MAX_RECORD ? INDEX_MAX_HEADER
						      : INDEX_MAX_RECORD];
	const struct index_header *h = &a->h;
	struct edit e;
	uint32_t at, next;
	int rc;

	rc = edit_begin(a, "cyrus.index", !a->exists, &e);
	next = a->exists ? a->ix->h.num_records : 0;
	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		if (item->skip)
			continue;
		at = item->had ? item->recno : next++;
		rc = index_record_encode(h->minor_version, &item->now, p);
		if (rc == 0)
			rc = spool_write(a->sp, e.fd, p, h->record_size,
				h->start_offset + (uint64_t)at * h->record_size);
		FAULT("apply.record");
	}
	a->h.num_records = next;
	if (rc == 0)
		rc = index_header_encode(h, p);
	FAULT("apply.before-header");
	if (rc == 0)
		rc = spool_write(a->sp, e.fd, p, h->start_offset, 0);
	FAULT("apply.header");
	return edit_end(a, &e, a->owner.index_mode, rc);
}

/* ---- index and cache anew ---- */

struct placed {
	uint32_t crc;
	uint64_t offset;
};

struct rewrite {
	struct apply *a;
	int old_cache; /* -1: none */
	struct placed *map; /* by CRC, when offsets turned out wrong */
	size_t n_map;
	bool mapped;
	struct edit cache;
	uint64_t cache_at;
	struct buf pending; /* cache bytes not yet written */
	struct buf index; /* records */
	uint32_t count;
};

static int
by_crc(const void *a, const void *b)
{
	const struct placed *x = a, *y = b;

	return x->crc < y->crc ? -1 : x->crc > y->crc;
}

static void
map_cache(struct rewrite *w)
{
	struct buf file = BUF_INIT;
	size_t at = 4, len, cap = 0;

	w->mapped = true;
	if (spool_read(w->a->sp, w->a->b->dir, "cyrus.cache", CACHE_MAX_FILE, &file,
		    NULL) != 0)
		goto out;
	while (at < file.len &&
		cache_record_length(file.data + at, file.len - at, &len) == 0) {
		if (w->n_map == cap) {
			cap = cap == 0 ? 64 : cap * 2;
			struct placed *more = realloc(w->map, cap * sizeof(*more));
			if (more == NULL)
				break;
			w->map = more;
		}
		w->map[w->n_map++] =
			(struct placed){ hash_crc32(0, file.data + at, len), at };
		at += len;
	}
	if (w->n_map > 1)
		qsort(w->map, w->n_map, sizeof(*w->map), by_crc);
out:
	buf_fini(&file);
}

static int
old_cache_record(
	struct rewrite *w, const struct index_record *r, uint8_t **p_out, size_t *n_out)
{
	if (w->old_cache < 0 || r->cache_crc == 0)
		return ERR_NOTFOUND;
	int rc = cache_record_read(
		w->old_cache, r->cache_offset, r->cache_crc, p_out, n_out);
	if (rc == 0 || rc == ERR_NOMEM)
		return rc;
	if (!w->mapped)
		map_cache(w);
	struct placed key = { r->cache_crc, 0 };
	const struct placed *found =
		w->n_map > 0 ? bsearch(&key, w->map, w->n_map, sizeof(key), by_crc)
			     : NULL;
	if (found == NULL)
		return ERR_NOTFOUND;
	return cache_record_read(
		w->old_cache, found->offset, r->cache_crc, p_out, n_out);
}

static int
flush_cache(struct rewrite *w)
{
	int rc = buf_ok(&w->pending);

	if (rc == 0 && w->pending.len > 0)
		rc = spool_write(w->a->sp, w->cache.fd, w->pending.data, w->pending.len,
			w->cache_at);
	w->cache_at += w->pending.len;
	buf_clear(&w->pending);
	return rc;
}

static int
rewrite_one(void *arg, const struct index_record *r, struct apply_item *item)
{
	struct rewrite *w = arg;
	struct index_record now = *r;
	uint8_t p[INDEX_MAX_RECORD], *own = NULL;
	const uint8_t *cache = item != NULL ? item->cache : NULL;
	size_t n = item != NULL ? item->cache_len : 0;
	int rc = 0;

	if (cache == NULL) {
		rc = old_cache_record(w, r, &own, &n);
		if (rc == ERR_NOMEM)
			return rc;
		cache = rc == 0 ? own : NULL;
	}
	if (cache != NULL) {
		now.cache_offset = w->cache_at + w->pending.len;
		buf_put(&w->pending, cache, n);
	} else {
		no_cache(&now);
	}
	free(own);
	rc = w->pending.len >= FLUSH_AT ? flush_cache(w) : 0;
	if (rc == 0)
		rc = index_record_encode(w->a->h.minor_version, &now, p);
	if (rc != 0)
		return rc;
	buf_put(&w->index, p, w->a->h.record_size);
	w->count++;
	if (item != NULL)
		item->now = now;
	return 0;
}

static int
write_anew(struct apply *a)
{
	struct rewrite w = { .a = a, .old_cache = -1 };
	struct edit index = { .open = false };
	uint8_t head[INDEX_MAX_HEADER];
	int rc;

	a->h.generation_no++;
	if (spool_file(a->sp, a->b->dir, "cyrus.cache", O_RDONLY, 0, &w.old_cache) != 0)
		w.old_cache = -1;
	rc = edit_begin(a, "cyrus.cache", true, &w.cache);
	if (rc == 0)
		rc = edit_begin(a, "cyrus.index", true, &index);
	wr_be32(&w.pending, a->h.generation_no);
	if (rc == 0)
		rc = apply_results(a, rewrite_one, &w);
	if (rc == 0)
		rc = flush_cache(&w);
	a->h.num_records = w.count;
	a->h.leaked_cache_records = 0;
	if (rc == 0)
		rc = buf_ok(&w.index);
	if (rc == 0)
		rc = index_header_encode(&a->h, head);
	if (rc == 0)
		rc = spool_write(a->sp, index.fd, head, a->h.start_offset, 0);
	if (rc == 0)
		rc = spool_write(
			a->sp, index.fd, w.index.data, w.index.len, a->h.start_offset);
	FAULT("apply.before-cache-rename");
	rc = edit_end(a, &w.cache, a->owner.cache_mode, rc);
	FAULT("apply.before-index-rename");
	rc = edit_end(a, &index, a->owner.index_mode, rc);
	FAULT("apply.index-rename");
	if (w.old_cache >= 0)
		close(w.old_cache);
	free(w.map);
	buf_fini(&w.pending);
	buf_fini(&w.index);
	return rc;
}

/* Did a crash come between the two renames of a rewrite? */
static bool
cache_is_foreign(struct apply *a)
{
	uint8_t p[4];
	bool foreign = false;
	int fd;

	if (!a->exists || !a->full || a->mode != MBOX_REDO ||
		spool_file(a->sp, a->b->dir, "cyrus.cache", O_RDONLY, 0, &fd) != 0)
		return false;
	if (pread(fd, p, sizeof(p), 0) == (ssize_t)sizeof(p)) {
		struct rd rd = rd_over(p, sizeof(p));
		foreign = rd_be32(&rd) != a->ix->h.generation_no;
	}
	close(fd);
	return foreign;
}

int
apply_write(struct apply *a)
{
	int rc = write_owner(a);

	if (rc == 0 && cache_is_foreign(a))
		a->rewrite = true;
	if (rc == 0 && !a->rewrite)
		rc = append_cache(a);
	if (rc == 0)
		rc = write_annots(a);
	if (rc == 0)
		rc = write_names(a);
	if (rc == 0)
		rc = a->rewrite ? write_anew(a) : write_records(a);
	return rc;
}

/* ---- after ---- */

int
apply_verify(struct apply *a)
{
	const char *dir = a->b->dir;
	struct index_record r;
	struct ixfile ix;
	uint32_t at;
	int rc = ixfile_open(a->sp, dir, false, &ix);

	if (rc != 0)
		return scan_fault(a->fault, rc, 0, "read-back",
			"cyrus.index cannot be read after it was written: %s",
			err_text(rc));
	struct sum sum = a->sum_before.records;
	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		const struct apply_item *item = &a->items[i];
		if (item->skip)
			continue;
		if (item->had)
			sum_sub(&sum, sum_of_record(&item->old));
		rc = ixfile_find(&ix, item->uid, &at);
		if (item->drop) {
			rc = rc == ERR_NOTFOUND ? 0 : rc == 0 ? ERR_SUM : rc;
			continue;
		}
		if (rc == 0)
			rc = ixfile_record(&ix, at, &r);
		if (rc == 0)
			sum_add(&sum, sum_of_record(&r));
	}
	bool same = rc == 0 && sum_eq(sum, a->sum.records) &&
		    sum_eq(sum_of_header(&ix.h), a->sum.header) &&
		    ix.h.num_records == a->h.num_records &&
		    ix.h.header_file_crc == a->h.header_file_crc;
	if (same && a->names_change != NULL) {
		struct buf file = BUF_INIT;
		rc = spool_read(
			a->sp, dir, "cyrus.header", HEADER_MAX_FILE, &file, NULL);
		same = rc == 0 &&
		       sum_eq(sum_of_names(file.data, file.len), a->sum.names);
		buf_fini(&file);
	}
	if (same && a->annots_changed) {
		struct scan_annots now;
		rc = scan_annots_load(a->sp, dir, &now);
		if (rc == 0) {
			same = sum_eq(scan_annots_sum(now.list, now.n), a->sum.annots);
			scan_annots_close(&now);
		}
	}
	if (rc == 0 && !same)
		rc = ERR_SUM;
	if (rc != 0) {
		ixfile_close(&ix);
		return scan_fault(a->fault, rc, 0, "read-back",
			"what was written does not read back: %s", err_text(rc));
	}
	struct mbox_state *s = a->state;
	s->header = ix.h;
	s->sum = a->sum;
	s->owner = a->owner;
	memset(s->uniqueid, 0, sizeof(s->uniqueid));
	memcpy(s->uniqueid, a->b->uniqueid,
		strnlen(a->b->uniqueid, sizeof(s->uniqueid) - 1));
	scan_stamp(&ix.st, s);
	ixfile_close(&ix);
	return 0;
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
		if (rc == 0)
			apply_changed(a, a->b->dir, name);
		else if (rc == ERR_NOTFOUND)
			rc = 0;
	}
	return rc;
}
