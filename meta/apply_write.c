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
 * else a copy is changed and renamed over. Where that is not enough see apply_anew.c.
 */
#include "meta/apply.h"

#include "meta/base/cur.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/cache.h"
#include "meta/place.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLUSH_AT ((size_t)1 << 20)
/* So many items, and one read of the whole index is cheaper than bisecting for each. */
#define LOAD_FROM 32

bool
apply_keeps(const struct mbox_env *env, const uint8_t guid[SHA1_LEN])
{
	return env->keep_body != NULL && env->keep_body(env->arg, guid);
}

/* ---- a file that is changed in place or through a copy ---- */

int
apply_edit_begin(struct apply *a, const char *name, bool anew, struct apply_edit *e)
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
			       env->begin_in_place(env->arg, dir, name, from))) {
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

static int
sync_copy(const struct apply_edit *e)
{
	struct place dir = { .kind = PLACE_DIR };

	return disk_datasync(e->fd, place_disk(place_step(dir, e->name, S_IFREG)));
}

/* Gives it its name if rc is 0, else forgets it. A copy is synced first, or a power cut could
 * leave the name of a file that was whole on an empty one. A mailbox that was not there needs no
 * sync of its own: until the spool was synced its batch comes again after a power cut, and makes
 * anew what does not read (stand_in_full). */
int
apply_edit_end(struct apply *a, struct apply_edit *e, uint32_t mode, int rc)
{
	if (!e->open)
		return rc;
	e->open = false;
	if (e->in_place) {
		if (a->env->end_in_place != NULL)
			a->env->end_in_place(a->env->arg, a->b->dir, e->name, e->fd);
		close(e->fd);
		return rc;
	}
	if (rc == 0 && (fchown(e->fd, a->owner.uid, a->owner.gid) < 0 ||
			       fchmod(e->fd, mode & 07777) < 0 ||
			       (a->exists && sync_copy(e) < 0)))
		rc = err_from_errno(errno);
	if (rc == 0)
		rc = spool_temp_place(a->sp, e->temp, a->b->dir, e->name);
	if (rc != 0)
		spool_temp_drop(a->sp, e->temp);
	close(e->fd);
	return rc;
}

static int
put_file(struct apply *a, const char *name, const void *p, size_t n, uint32_t mode)
{
	struct apply_edit e;
	int rc = apply_edit_begin(a, name, true, &e);

	if (rc == 0)
		rc = spool_write(a->sp, e.fd, p, n, 0);
	return apply_edit_end(a, &e, mode, rc);
}

/* ---- cache, appended ---- */

void
apply_no_cache(struct index_record *r)
{
	r->cache_offset = 0;
	r->cache_crc = r->cache_version = 0;
}

static int
append_cache(struct apply *a)
{
	struct buf out = BUF_INIT;
	struct apply_edit e = { .open = false };
	int rc = 0;
	bool any = false;

	for (size_t i = 0; i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		any = any || (!item->skip && item->cache != NULL);
		if (!item->skip && item->cache == NULL && !item->drop &&
			item->now.cache_offset == 0)
			apply_no_cache(&item->now);
	}
	if (!any)
		return 0;
	rc = apply_edit_begin(a, "cyrus.cache", !a->exists, &e);
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
	return apply_edit_end(a, &e, a->owner.cache_mode, rc);
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

/* Records that lie side by side are written as one. */
struct run {
	struct buf bytes;
	uint64_t at;
};

static int
run_end(struct apply *a, int fd, struct run *run)
{
	int rc = buf_ok(&run->bytes);

	if (rc == 0 && run->bytes.len > 0)
		rc = spool_write(a->sp, fd, run->bytes.data, run->bytes.len, run->at);
	buf_clear(&run->bytes);
	FAULT("apply.record");
	return rc;
}

static int
run_add(struct apply *a, int fd, struct run *run, const uint8_t *p, size_t n,
	uint64_t at)
{
	int rc = 0;

	if (run->bytes.len > 0 &&
		(at != run->at + run->bytes.len || run->bytes.len >= FLUSH_AT))
		rc = run_end(a, fd, run);
	if (run->bytes.len == 0)
		run->at = at;
	buf_put(&run->bytes, p, n);
	return rc;
}

static int
write_records(struct apply *a)
{
	uint8_t p[INDEX_MAX_HEADER > INDEX_MAX_RECORD ? INDEX_MAX_HEADER
						      : INDEX_MAX_RECORD];
	const struct index_header *h = &a->h;
	struct run run = { .bytes = BUF_INIT };
	struct apply_edit e;
	uint32_t at, next;
	int rc;

	rc = apply_edit_begin(a, "cyrus.index", !a->exists, &e);
	a->index_in_place = e.in_place;
	next = a->exists ? a->ix->h.num_records : 0;
	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		if (item->skip)
			continue;
		at = item->had ? item->recno : next++;
		rc = index_record_encode(h->minor_version, &item->now, p);
		if (rc == 0)
			rc = run_add(a, e.fd, &run, p, h->record_size,
				h->start_offset + (uint64_t)at * h->record_size);
	}
	if (rc == 0)
		rc = run_end(a, e.fd, &run);
	buf_fini(&run.bytes);
	a->h.num_records = next;
	if (rc == 0)
		rc = index_header_encode(h, p);
	FAULT("apply.before-header");
	if (rc == 0)
		rc = spool_write(a->sp, e.fd, p, h->start_offset, 0);
	FAULT("apply.header");
	return apply_edit_end(a, &e, a->owner.index_mode, rc);
}

int
apply_write(struct apply *a)
{
	int rc = write_owner(a);

	if (rc == 0 && apply_cache_is_foreign(a))
		a->rewrite = true;
	if (rc == 0 && !a->rewrite)
		rc = append_cache(a);
	if (rc == 0)
		rc = write_annots(a);
	if (rc == 0)
		rc = write_names(a);
	if (rc == 0)
		rc = a->rewrite ? apply_write_anew(a) : write_records(a);
	return rc;
}

/* ---- after ---- */

int
apply_verify(struct apply *a)
{
	const char *dir = a->b->dir;
	struct index_record r;
	struct ixfile anew = { .open = false }, *ix = &anew;
	uint32_t at;
	int rc;

	bool many = a->n >= LOAD_FROM && a->n >= a->h.num_records / LOAD_FROM;
	if (a->index_in_place && a->ix_own.open && !many) {
		ix = &a->ix_own;
		rc = ixfile_again(ix);
	} else {
		rc = ixfile_open(a->sp, dir, many, ix);
	}
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
		rc = ixfile_find(ix, item->uid, &at);
		if (item->drop) {
			rc = rc == ERR_NOTFOUND ? 0 : rc == 0 ? ERR_SUM : rc;
			continue;
		}
		if (rc == 0)
			rc = ixfile_record(ix, at, &r);
		if (rc == 0)
			sum_add(&sum, sum_of_record(&r));
	}
	bool same = rc == 0 && sum_eq(sum, a->sum.records) &&
		    sum_eq(sum_of_header(&ix->h), a->sum.header) &&
		    ix->h.num_records == a->h.num_records &&
		    ix->h.header_file_crc == a->h.header_file_crc;
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
		ixfile_close(&anew);
		return scan_fault(a->fault, rc, 0, "read-back",
			"what was written does not read back: %s", err_text(rc));
	}
	struct mbox_state *s = a->state;
	s->header = ix->h;
	s->sum = a->sum;
	s->owner = a->owner;
	s->in_pieces = (a->b->flags & BATCH_PARTIAL) != 0;
	memset(s->uniqueid, 0, sizeof(s->uniqueid));
	memcpy(s->uniqueid, a->b->uniqueid,
		strnlen(a->b->uniqueid, sizeof(s->uniqueid) - 1));
	scan_stamp(&ix->st, s);
	ixfile_close(&anew);
	return 0;
}
