/*
 * apply_plan.c - what a batch makes of a mailbox, worked out before anything is written.
 *
 * The plan is a list of items by UID. From them and the header's stated fields follow the sums
 * and Cyrus's own sums of the result, so a batch that does not lead where it says is refused
 * while the mailbox is still as it was.
 *
 * Two grounds to stand on. In step: the state is what the disk holds, the batch starts from it,
 * and only the records that it names are read. In full (redo, derived, whole, new): the disk is
 * read as a whole, and a batch may be older than what is there (redo after a crash: all batches
 * since the last sync come again in order). A record that is further on than the batch would
 * make it is left alone; a later batch of the same redo is the one that brought it there.
 */
#include "meta/apply.h"

#include "meta/base/err.h"
#include "meta/cache.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GONE (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)

static bool
guid_zero(const uint8_t guid[SHA1_LEN])
{
	static const uint8_t zero[SHA1_LEN];

	return memcmp(guid, zero, SHA1_LEN) == 0;
}

/* A batch that does not build on what is there record by record. */
bool
apply_overrides(const struct batch *b)
{
	return (b->flags & (BATCH_WHOLE | BATCH_DERIVED)) != 0;
}

static int
diverged(struct apply *a, uint32_t uid, const char *text)
{
	return scan_fault(
		a->fault, ERR_DIVERGED, uid, "diverged", "%s; compare it", text);
}

/* ---- the ground ---- */

/* The disk must hold what the state says, or the sums would prove nothing. */
static int
stand_on_state(struct apply *a)
{
	struct mbox_state *s = a->state;
	int rc = ixfile_open(a->sp, a->b->dir, false, &a->ix_own);

	if (rc == ERR_NOTFOUND || rc == ERR_BUSY)
		return diverged(a, 0, "cyrus.index is missing");
	if (rc != 0)
		return scan_fault(a->fault, rc, 0, "index-header",
			"cyrus.index cannot be read: %s", err_text(rc));
	a->ix = &a->ix_own;
	const struct index_header *h = &a->ix->h;
	if (!sum_eq(sum_of_header(h), s->sum.header) ||
		h->num_records != s->header.num_records ||
		h->generation_no != s->header.generation_no)
		return diverged(
			a, 0, "cyrus.index is not the one that was last written");
	a->exists = true;
	a->sum_before = s->sum;
	a->owner = s->owner;
	return 0;
}

static int
stand_in_step(struct apply *a)
{
	const struct mbox_state *s = a->state;

	if (s->header.minor_version == 0)
		return diverged(a, 0, "nothing is known of this mailbox");
	if (!sum_eq(mbox_sum_total(&s->sum), a->b->before))
		return diverged(a, 0, "the sum before does not match");
	return stand_on_state(a);
}

/* The first piece of a repair has read every record. A later one does not again, or a mailbox of a
 * million messages would be read a thousand times. */
static bool
stand_as_piece(struct apply *a)
{
	if (a->mode != MBOX_CHECK || (a->b->flags & BATCH_PARTIAL) == 0 ||
		!a->state->in_pieces || a->state->header.minor_version == 0)
		return false;
	a->piece = stand_on_state(a) == 0;
	if (!a->piece) {
		ixfile_close(&a->ix_own);
		memset(a->fault, 0, sizeof(*a->fault));
	}
	return a->piece;
}

/* Is the record's cache what it says? Cyrus syncs it, a replay only afterwards: a crash may have
 * torn it under an index that is whole. */
static bool
cache_sound(const struct apply *a, const struct index_record *r)
{
	uint8_t *p = NULL;
	size_t n;
	int fd, rc;

	if (r->cache_crc == 0 || r->cache_offset == 0)
		return true;
	rc = spool_file(a->sp, a->b->dir, "cyrus.cache", O_RDONLY, 0, &fd);
	if (rc == 0) {
		rc = cache_record_read(fd, r->cache_offset, r->cache_crc, &p, &n);
		close(fd);
	}
	free(p);
	return rc == 0;
}

static bool
caches_sound(const struct apply *a)
{
	struct index_record r;

	for (uint32_t i = 0; i < a->ix->h.num_records; i++)
		if (ixfile_record(a->ix, i, &r) != 0 || !cache_sound(a, &r))
			return false;
	return true;
}

/* Can it make a mailbox? A derived batch that says no more than what changed, or only the sum, is for
 * whoever has it. */
static bool
is_for_any(const struct batch *b)
{
	bool any = (b->flags & (BATCH_WHOLE | BATCH_CREATE)) != 0;

	for (size_t i = 0; i < b->n && !any; i++)
		any = b->changes[i].kind == CHANGE_NAMES &&
		      (b->flags & BATCH_DERIVED) != 0;
	return any;
}

static int
stand_in_full(struct apply *a)
{
	bool restates = is_for_any(a->b);
	struct stat st;
	int rc = scan_open(a->sp, a->b->dir, SCAN_LENIENT, NULL, &a->scan, a->fault);

	if (rc == ERR_NOMEM || rc == ERR_IO || rc == ERR_ACCESS)
		return rc;
	if (rc != 0 && !restates)
		return rc == ERR_NOTFOUND || rc == ERR_BUSY
			       ? diverged(a, 0, "there is no such mailbox")
			       : rc;
	if (rc != 0) {
		/* No index in a folder that is there: whatever else is in it is left over. */
		a->damaged = spool_stat(a->sp, a->b->dir, NULL, &st) == 0;
		memset(&a->owner, 0, sizeof(a->owner));
		return 0;
	}
	if (a->mode == MBOX_CHECK && (a->b->flags & BATCH_CREATE) != 0)
		return diverged(a, 0, "the mailbox is there already");
	a->full = a->exists = true;
	a->ix = &a->scan.ix;
	a->sum_before = a->scan.sum;
	a->owner = a->scan.owner;
	if (a->scan.holes > 0)
		a->rewrite = a->damaged = true;
	/* What is lost of the cache and does not come again, Cyrus makes anew from the message. */
	else if (a->mode == MBOX_REDO && !caches_sound(a))
		a->rewrite = true;
	return 0;
}

/* ---- items ---- */

static struct apply_item *
add_item(struct apply *a, uint32_t uid)
{
	if (a->n == a->cap) {
		size_t cap = a->cap < 4 ? 4 : a->cap * 2;
		struct apply_item *more = realloc(a->items, cap * sizeof(*more));
		if (more == NULL)
			return NULL;
		a->items = more;
		a->cap = cap;
	}
	struct apply_item *item = &a->items[a->n++];
	memset(item, 0, sizeof(*item));
	item->uid = uid;
	return item;
}

static int
by_uid(const void *a, const void *b)
{
	const struct apply_item *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

static int
sort_items(struct apply *a)
{
	if (a->n > 1)
		qsort(a->items, a->n, sizeof(*a->items), by_uid);
	for (size_t i = 1; i < a->n; i++)
		if (a->items[i].uid == a->items[i - 1].uid)
			return scan_fault(a->fault, ERR_MANGLED, a->items[i].uid,
				"batch", "the batch names one UID twice");
	return 0;
}

static int
list_items(struct apply *a)
{
	const struct batch *b = a->b;
	struct apply_item *item;
	struct index_record r;

	for (size_t i = 0; i < b->n; i++) {
		const struct change *c = &b->changes[i];
		if (c->kind == CHANGE_RECORD) {
			item = add_item(a, c->u.record.r.uid);
			if (item != NULL)
				item->c = &c->u.record;
		} else if (c->kind == CHANGE_PURGE) {
			item = add_item(a, c->u.purge.uid);
			if (item != NULL)
				memcpy(item->guid, c->u.purge.guid, SHA1_LEN);
		} else {
			continue;
		}
		if (item == NULL)
			return ERR_NOMEM;
	}
	int rc = sort_items(a);
	if (rc != 0 || (b->flags & (BATCH_WHOLE | BATCH_PARTIAL)) != BATCH_WHOLE ||
		!a->exists)
		return rc;
	/* Whole: what is not named goes. */
	size_t named = a->n;
	for (uint32_t i = 0, k = 0; i < a->ix->h.num_records; i++) {
		rc = ixfile_record(a->ix, i, &r);
		if (rc != 0)
			return rc;
		while (k < named && a->items[k].uid < r.uid)
			k++;
		if (k < named && a->items[k].uid == r.uid)
			continue;
		if (add_item(a, r.uid) == NULL)
			return ERR_NOMEM;
	}
	return sort_items(a);
}

static int
plan_purge(struct apply *a, struct apply_item *item)
{
	if (!item->had) {
		item->skip = true;
		return 0;
	}
	if (!guid_zero(item->guid) && memcmp(item->guid, item->old.guid, SHA1_LEN) != 0)
		return diverged(
			a, item->uid, "the record to be dropped is another message");
	item->drop = true;
	item->unlink = true;
	/* What was never expunged here is kept, whoever says that it must go. */
	item->keep = (item->old.flags & INDEX_FLAG_UNLINKED) == 0;
	a->rewrite = true;
	return 0;
}

/* In a redo: a repack that comes later in it has dropped that record already, and its message with
 * it. deletedmodseq covers what was dropped, and was below this modseq when it was appended. */
static bool
purged_since(const struct apply *a, const struct index_record *r)
{
	return a->mode == MBOX_REDO && !apply_overrides(a->b) && a->exists &&
	       a->scan.holes == 0 && r->uid <= a->ix->h.last_uid &&
	       r->modseq <= a->ix->h.deletedmodseq;
}

/* Not one that has taken another's place, whose removal was journaled. */
static bool
is_same_mailbox(const struct apply *a)
{
	const char *id = a->full ? a->scan.names.h.uniqueid : a->state->uniqueid;

	return a->b->uniqueid[0] == '\0' || id[0] == '\0' ||
	       strcmp(id, a->b->uniqueid) == 0;
}

static int
plan_append(struct apply *a, struct apply_item *item)
{
	const struct change_record *c = item->c;
	size_t len;

	item->now = c->r;
	item->now.cache_offset = 0;
	if (c->cache != NULL) {
		if (cache_record_length(c->cache, c->cache_len, &len) != 0 ||
			len != c->cache_len ||
			hash_crc32(0, c->cache, len) != c->r.cache_crc)
			return scan_fault(a->fault, ERR_CHECKSUM, item->uid,
				"cache-crc",
				"the batch carries a damaged cache record");
		item->cache = c->cache;
		item->cache_len = c->cache_len;
	}
	if (!item->had && purged_since(a, &c->r)) {
		item->skip = true;
		return 0;
	}
	if (!item->had) {
		if (!a->full && !a->piece && a->exists &&
			item->uid <= a->ix->h.last_uid)
			return diverged(a, item->uid, "that UID was given away before");
		if (a->exists && item->recno < a->ix->h.num_records)
			a->rewrite = true;
		return 0;
	}
	bool same = memcmp(item->old.guid, c->r.guid, SHA1_LEN) == 0;
	if (!same && !apply_overrides(a->b))
		return diverged(a, item->uid, "that UID is another message here");
	/* A mailbox never gives a UID twice: the other side has lost what is here. */
	if (!same && is_same_mailbox(a) && !guid_zero(item->old.guid) &&
		!guid_zero(c->r.guid) && (item->old.flags & INDEX_FLAG_UNLINKED) == 0)
		return scan_fault(a->fault, ERR_MORE, item->uid, "has-more",
			"another message under this UID is here than on the active "
			"side; nothing is deleted: save it from this spool");
	if (same && !a->full && !a->piece)
		return diverged(a, item->uid, "that message is there already");
	if (same && a->mode == MBOX_REDO && !apply_overrides(a->b) &&
		(item->old.modseq > c->r.modseq ||
			(item->old.flags & ~c->r.flags & GONE) != 0)) {
		item->now = item->old;
		if (c->cache != NULL && item->old.cache_crc == c->r.cache_crc &&
			!cache_sound(a, &item->old))
			item->now.cache_offset = 0; /* the cache alone is of use */
		else
			item->skip = true;
		return 0;
	}
	if (same && (item->old.cache_crc == c->r.cache_crc || c->cache == NULL) &&
		item->old.cache_offset != 0 &&
		(a->mode != MBOX_REDO || cache_sound(a, &item->old))) {
		item->now.cache_offset = item->old.cache_offset;
		item->now.cache_crc = item->old.cache_crc;
		item->now.cache_version = item->old.cache_version;
		item->cache = NULL;
	}
	return 0;
}

static int
plan_update(struct apply *a, struct apply_item *item)
{
	const struct change_record *c = item->c;

	if (!item->had) {
		if (a->mode != MBOX_REDO || apply_overrides(a->b))
			return diverged(a, item->uid, "that message is not here");
		item->skip = true;
		return 0;
	}
	if ((c->mask & CHANGE_RECORD_GUID) != 0 && !guid_zero(item->old.guid) &&
		memcmp(c->r.guid, item->old.guid, SHA1_LEN) != 0)
		return diverged(a, item->uid, "that UID is another message here");
	item->now = item->old;
	change_record_merge(
		&item->now, &c->r, c->mask & ~(uint64_t)CHANGE_RECORD_CACHE);
	if (a->mode == MBOX_REDO && !apply_overrides(a->b)) {
		if ((c->mask & CHANGE_RECORD_MODSEQ) != 0 &&
			item->old.modseq > c->r.modseq) {
			item->skip = true;
			return 0;
		}
		item->now.flags |= item->old.flags & GONE;
	}
	return 0;
}

static bool
needs_body(const struct apply *a, const struct apply_item *item)
{
	if (item->c->append && item->c->elsewhere)
		return false;
	if (!item->had || (item->old.flags & INDEX_FLAG_UNLINKED) != 0 ||
		memcmp(item->old.guid, item->now.guid, SHA1_LEN) != 0)
		return true;
	/* It should be there; where that is not certain it is looked at. An archived one may
	 * lie on another partition. */
	return (a->mode == MBOX_REDO || apply_overrides(a->b)) &&
	       (item->now.flags & INDEX_FLAG_ARCHIVED) == 0;
}

/* As for the header. */
static int
settle(struct apply *a, struct apply_item *item)
{
	uint8_t p[INDEX_MAX_RECORD];
	int rc = index_record_encode(a->h.minor_version, &item->now, p);

	if (rc == 0)
		rc = index_record_decode(a->h.minor_version, p, &item->now);
	if (rc != 0)
		return scan_fault(a->fault, rc, item->uid, "record",
			"the record does not fit index version %" PRIu32,
			a->h.minor_version);
	if ((item->now.flags & INDEX_FLAG_UNLINKED) &&
		!(item->now.flags & INDEX_FLAG_EXPUNGED))
		return scan_fault(a->fault, ERR_MANGLED, item->uid, "flags",
			"unlinked but not expunged");
	if (item->now.flags & INDEX_FLAG_UNLINKED)
		item->unlink = true;
	else
		item->body = needs_body(a, item);
	/* A message that gives way to another mailbox's under its UID is kept aside. */
	if (item->had && (item->old.flags & INDEX_FLAG_UNLINKED) == 0 &&
		memcmp(item->old.guid, item->now.guid, SHA1_LEN) != 0)
		item->keep = true;
	return 0;
}

static int
plan_items(struct apply *a)
{
	int rc = list_items(a);

	for (size_t i = 0; rc == 0 && i < a->n; i++) {
		struct apply_item *item = &a->items[i];
		if (a->exists) {
			rc = ixfile_find(a->ix, item->uid, &item->recno);
			if (rc == 0) {
				rc = ixfile_record(a->ix, item->recno, &item->old);
				item->had = rc == 0;
				if (rc != 0)
					return scan_fault(a->fault, rc, item->uid,
						"record-crc", "record is damaged: %s",
						err_text(rc));
			} else if (rc == ERR_NOTFOUND) {
				rc = 0;
			}
			if (rc != 0)
				break;
		}
		if (item->c == NULL)
			rc = plan_purge(a, item);
		else if (item->c->append)
			rc = plan_append(a, item);
		else
			rc = plan_update(a, item);
		if (rc == 0 && item->c != NULL && !item->skip)
			rc = settle(a, item);
		if (rc != 0 || item->skip)
			continue;
		if (item->had)
			sum_sub(&a->sum.records, sum_of_record(&item->old));
		if (!item->drop)
			sum_add(&a->sum.records, sum_of_record(&item->now));
	}
	return rc;
}

int
apply_results(struct apply *a, apply_result_fn *fn, void *arg)
{
	uint32_t count = a->exists ? a->ix->h.num_records : 0;
	struct index_record r;
	size_t k = 0;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i <= count; i++) {
		/* New ones that belong before record i, then record i itself. */
		for (; rc == 0 && k < a->n && a->items[k].recno == i &&
			!(a->items[k].had);
			k++)
			if (!a->items[k].skip)
				rc = fn(arg, &a->items[k].now, &a->items[k]);
		if (rc != 0 || i == count)
			break;
		if (k < a->n && a->items[k].had && a->items[k].recno == i) {
			struct apply_item *item = &a->items[k++];
			if (item->drop)
				continue;
			rc = fn(arg, item->skip ? &item->old : &item->now,
				item->skip ? NULL : item);
			continue;
		}
		rc = ixfile_record(a->ix, i, &r);
		if (rc == 0)
			rc = fn(arg, &r, NULL);
	}
	return rc;
}

/* ---- header, names, annotations ---- */

/* As the file will have it: what the version lacks is 0, and the sum must say so. */
static int
settle_header(struct apply *a)
{
	uint8_t p[INDEX_MAX_HEADER];
	int rc = index_header_encode(&a->h, p);

	if (rc == 0)
		rc = index_header_decode(p, sizeof(p), &a->h);
	if (rc != 0)
		return scan_fault(a->fault, rc, 0, "index-header",
			"the header does not fit index version %" PRIu32,
			a->h.minor_version);
	a->sum.header = sum_of_header(&a->h);
	return 0;
}

static int
plan_header(struct apply *a)
{
	const struct change_header *stated = NULL;

	for (size_t i = 0; i < a->b->n; i++) {
		const struct change *c = &a->b->changes[i];
		if (c->kind == CHANGE_HEADER)
			stated = &c->u.header;
		else if (c->kind == CHANGE_OWNER)
			a->owner = c->u.owner;
		else if (c->kind == CHANGE_NAMES)
			a->names_change = &c->u.names;
	}
	if (a->exists)
		a->h = a->ix->h;
	if (stated != NULL)
		change_header_merge(&a->h, &stated->h, stated->mask);
	if (index_header_size(a->h.minor_version) == 0)
		return scan_fault(a->fault, ERR_VERSION, 0, "version",
			"index version %" PRIu32 " is unknown", a->h.minor_version);
	if (a->exists && a->h.minor_version != a->ix->h.minor_version)
		a->rewrite = true;
	return settle_header(a);
}

static int
plan_names(struct apply *a)
{
	int rc;

	a->names = a->full ? &a->scan.names : &a->names_now;
	if (a->names_change == NULL) {
		if (!a->exists)
			return scan_fault(a->fault, ERR_MANGLED, 0, "batch",
				"a new mailbox without its cyrus.header");
		return 0;
	}
	rc = scan_names_from(
		a->names_change->p, a->names_change->n, a->b->dir, &a->names_new);
	if (rc != 0)
		return scan_fault(a->fault, rc, 0, "header-file",
			"the batch carries a cyrus.header that does not parse");
	a->names = &a->names_new;
	a->h.header_file_crc = hash_crc32(0, a->names_change->p, a->names_change->n);
	a->sum.names = sum_of_names(a->names_change->p, a->names_change->n);
	return 0;
}

const struct scan_annots *
apply_annots_before(const struct apply *a)
{
	return a->full ? &a->scan.annots : &a->annots_now;
}

static bool
states_annots(const struct batch *b, bool *all_out)
{
	bool any = false;

	*all_out = (b->flags & (BATCH_WHOLE | BATCH_PARTIAL)) == BATCH_WHOLE;
	for (size_t i = 0; i < b->n; i++) {
		if (b->changes[i].kind != CHANGE_ANNOTS)
			continue;
		any = true;
		if (b->changes[i].u.annots.uid == 0)
			*all_out = true;
	}
	return any || *all_out;
}

static bool
restated(const struct batch *b, uint32_t uid)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->changes[i].kind == CHANGE_ANNOTS &&
			b->changes[i].u.annots.uid == uid)
			return true;
	return false;
}

static int
add_stated(struct apply *a, const struct change_annots *c)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->n; i++) {
		const struct change_annot *s = &c->list[i];
		struct db_annot x = { .uid = c->uid,
			.entry = s->entry,
			.userid = s->userid,
			.value = s->value,
			.value_len = s->value_len,
			.modseq = s->modseq,
			.flags = s->flags };
		rc = scan_annots_add(&a->annots_new, &x);
	}
	return rc;
}

static bool
left_behind(struct apply *a)
{
	struct scan_annots old;
	bool any = scan_annots_load(a->sp, a->b->dir, &old) != 0 || old.n > 0;

	scan_annots_close(&old);
	return any;
}

static int
plan_annots(struct apply *a)
{
	bool all, need = states_annots(a->b, &all);
	int rc = 0;

	/* Where messages come or go, theirs count in Cyrus's own sum. */
	if (!a->exists) /* what an unreadable index left behind counts for nothing */
		a->annots_changed = left_behind(a);
	for (size_t i = 0; !need && i < a->n; i++)
		need = !a->items[i].skip &&
		       (!a->items[i].had || a->items[i].drop ||
			       ((a->items[i].old.flags ^ a->items[i].now.flags) &
				       INDEX_FLAG_EXPUNGED) != 0);
	if (!need)
		return 0;
	if (a->exists && !a->full) {
		rc = scan_annots_load(a->sp, a->b->dir, &a->annots_now);
		if (rc != 0)
			return scan_fault(a->fault, rc, 0, "annotations",
				"cyrus.annotations cannot be read: %s", err_text(rc));
	}
	if (!states_annots(a->b, &all))
		return 0;
	const struct scan_annots *now = apply_annots_before(a);
	for (size_t i = 0; rc == 0 && !all && i < now->n; i++)
		if (!restated(a->b, now->list[i].uid))
			rc = scan_annots_add(&a->annots_new, &now->list[i]);
	for (size_t i = 0; rc == 0 && i < a->b->n; i++)
		if (a->b->changes[i].kind == CHANGE_ANNOTS)
			rc = add_stated(a, &a->b->changes[i].u.annots);
	if (rc != 0)
		return rc;
	scan_annots_sort(&a->annots_new);
	for (size_t i = 1; i < a->annots_new.n; i++) {
		const struct db_annot *x = &a->annots_new.list[i - 1], *y = x + 1;
		if (x->uid == y->uid && strcmp(x->entry, y->entry) == 0 &&
			strcmp(x->userid, y->userid) == 0)
			return scan_fault(a->fault, ERR_MANGLED, x->uid, "batch",
				"the batch states one annotation twice");
	}
	struct sum sum = scan_annots_sum(a->annots_new.list, a->annots_new.n);
	if (!sum_eq(sum, a->sum.annots))
		a->annots_changed = true;
	a->sum.annots = sum;
	return 0;
}

/* ---- names that are there ---- */

static bool
has_keyword(const struct index_record *r)
{
	for (unsigned i = 0; i < INDEX_USER_FLAGS / 32; i++)
		if (r->user_flags[i] != 0)
			return true;
	return false;
}

/* Cyrus's own sums name keywords, and the owner of an annotation. */
static bool
names_count(const struct apply *a)
{
	if (a->annots_changed || a->annots_now.n > 0)
		return true;
	for (size_t i = 0; i < a->n; i++)
		if (!a->items[i].skip && (has_keyword(&a->items[i].old) ||
						 has_keyword(&a->items[i].now)))
			return true;
	return false;
}

/* cyrus.header as it is, where something of it counts. */
static int
load_names(struct apply *a)
{
	int rc = 0;

	if (a->exists && !a->full && names_count(a))
		rc = scan_names_load(a->sp, a->b->dir, &a->names_now);
	return rc == ERR_NOMEM || rc == ERR_IO ? rc : 0;
}

/* ---- the plan ---- */

int
apply_plan(struct apply *a)
{
	bool in_step = a->mode != MBOX_REDO && !apply_overrides(a->b) &&
		       (a->b->flags & BATCH_CREATE) == 0;
	int rc = in_step ? stand_in_step(a) : stand_as_piece(a) ? 0 : stand_in_full(a);

	if (rc != 0)
		return rc;
	a->sum = a->sum_before;
	rc = plan_header(a);
	if (rc == 0)
		rc = plan_names(a);
	if (rc == 0)
		rc = plan_items(a);
	if (rc == 0)
		rc = plan_annots(a);
	if (rc == 0)
		rc = load_names(a);
	if (rc != 0)
		return rc;
	a->sum_ok = (a->b->flags & BATCH_PARTIAL) != 0 ||
		    sum_eq(mbox_sum_total(&a->sum), a->b->after);
	/* In a redo a batch may be older than the disk; the last one must fit. */
	if (!a->sum_ok && (a->mode != MBOX_REDO || apply_overrides(a->b)))
		return scan_fault(a->fault, ERR_SUM, 0, "sum",
			"the batch does not lead to the sum that it states");
	rc = in_step    ? apply_totals_in_step(a)
	     : a->piece ? apply_totals_of_piece(a)
			: apply_totals_in_full(a);
	return rc != 0 ? rc : settle_header(a);
}

void
apply_fini(struct apply *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->items[i].cache_own);
	free(a->items);
	scan_close(&a->scan);
	ixfile_close(&a->ix_own);
	scan_names_close(&a->names_now);
	scan_names_close(&a->names_new);
	scan_annots_close(&a->annots_now);
	scan_annots_close(&a->annots_new);
}
