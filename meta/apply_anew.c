/*
 * apply_anew.c - cyrus.index and cyrus.cache made anew, compactly, as Cyrus's repack does: when
 * records are dropped or inserted, when the index takes another version, when a crash left the
 * two of different generations.
 *
 * The cache gets its name first. Between the two renames the old index points into the new
 * cache, and whoever reads a record there sees a wrong CRC. The redo finds the cache records of
 * such a file by walking it, since it is compact.
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
	struct apply_edit cache;
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
	/* Version 10 has no CRC of it: its form must do, unless a crash may have torn it. */
	bool bare = w->a->exists && w->a->ix->h.minor_version < 12 &&
		    w->a->mode != MBOX_REDO;
	if (w->old_cache < 0 || (r->cache_crc == 0 && !bare))
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
		if (now.cache_crc == 0)
			now.cache_crc = hash_crc32(0, cache, n);
		buf_put(&w->pending, cache, n);
	} else {
		apply_no_cache(&now);
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

int
apply_write_anew(struct apply *a)
{
	struct rewrite w = { .a = a, .old_cache = -1 };
	struct apply_edit index = { .open = false };
	uint8_t head[INDEX_MAX_HEADER];
	int rc;

	a->h.generation_no++;
	if (spool_file(a->sp, a->b->dir, "cyrus.cache", O_RDONLY, 0, &w.old_cache) != 0)
		w.old_cache = -1;
	rc = apply_edit_begin(a, "cyrus.cache", true, &w.cache);
	if (rc == 0)
		rc = apply_edit_begin(a, "cyrus.index", true, &index);
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
	rc = apply_edit_end(a, &w.cache, a->owner.cache_mode, rc);
	FAULT("apply.before-index-rename");
	rc = apply_edit_end(a, &index, a->owner.index_mode, rc);
	FAULT("apply.index-rename");
	if (w.old_cache >= 0)
		close(w.old_cache);
	free(w.map);
	buf_fini(&w.pending);
	buf_fini(&w.index);
	return rc;
}

/* Did a crash come between the two renames of a rewrite? */
bool
apply_cache_is_foreign(struct apply *a)
{
	uint8_t p[4];
	bool foreign = false;
	int fd;

	if (!a->exists || !a->full || a->mode != MBOX_REDO ||
		spool_file(a->sp, a->b->dir, "cyrus.cache", O_RDONLY, 0, &fd) != 0)
		return false;
	foreign = pread(fd, p, sizeof(p), 0) != (ssize_t)sizeof(p);
	if (!foreign) {
		struct rd rd = rd_over(p, sizeof(p));
		foreign = rd_be32(&rd) != a->ix->h.generation_no;
	}
	close(fd);
	return foreign;
}
