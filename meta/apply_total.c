/*
 * apply_total.c - Cyrus's own sums and the counters of the result.
 *
 * In step they are those of the header that is there, less what the touched records were, plus
 * what they are. In full they are worked out from all records. Either way they must be what the
 * batch states; 0 is unknown on both sides.
 */
#include "meta/apply.h"

#include "meta/base/err.h"

#include <stdlib.h>
#include <string.h>

#define GONE (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)

static int
tally_one(void *arg, const struct index_record *r, struct apply_item *item)
{
	struct apply *a = arg;

	(void)item;
	scan_tally_add(&a->scan.tally, a->h.minor_version, r, a->names,
		a->annots_changed ? &a->annots_new : apply_annots_before(a));
	return 0;
}

/* The sum after is right, so it is the sums before that are not what the peer's were. */
static int
wrong_total(struct apply *a, const char *check)
{
	return scan_fault(a->fault, ERR_SUM, 0, check,
		"what the batch says of it does not follow from its records");
}

/* The header of a mailbox that is half repaired says what is there. */
static void
totals_of_piece(struct apply *a, const struct scan_tally *t)
{
	struct index_header *h = &a->h;

	h->first_expunged = t->first_expunged;
	h->exists = t->exists;
	h->deleted = t->deleted;
	h->answered = t->answered;
	h->flagged = t->flagged;
	h->unseen = t->unseen;
	h->quota_mailbox_used = t->quota_used;
	h->sync_basic = t->basic;
	h->sync_annot = t->annot_unknown ? 0 : t->annot;
	if (h->last_uid < t->last_uid)
		h->last_uid = t->last_uid;
	if (h->highestmodseq < t->highestmodseq)
		h->highestmodseq = t->highestmodseq;
}

static int
by_uid(const void *a, const void *b)
{
	const struct apply_item *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

static bool
has_item(const struct apply *a, uint32_t uid)
{
	struct apply_item key = { .uid = uid };

	return a->n > 0 && bsearch(&key, a->items, a->n, sizeof(key), by_uid) != NULL;
}

/* Do annotations change of a message whose record does not? */
static bool
silent_annots(const struct apply *a)
{
	const struct scan_annots *sides[] = { &a->annots_now, &a->annots_new };

	if (!a->annots_changed)
		return false;
	for (int side = 0; side < 2; side++) {
		const struct scan_annots *x = sides[side], *y = sides[1 - side];
		for (size_t i = 0, n, m; i < x->n; i += n) {
			const struct db_annot *of =
				scan_annots_of(x, x->list[i].uid, &n);
			const struct db_annot *other = scan_annots_of(y, of->uid, &m);
			if (!has_item(a, of->uid) && !sum_eq(scan_annots_sum(of, n),
							     scan_annots_sum(other, m)))
				return true;
		}
	}
	return false;
}

static void
add_piece(struct apply *a, struct scan_tally *was, struct scan_tally *now)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct apply_item *item = &a->items[i];
		if (item->skip)
			continue;
		if (item->had)
			scan_tally_add(was, a->ix->h.minor_version, &item->old,
				&a->names_now, &a->annots_now);
		if (!item->drop)
			scan_tally_add(now, a->h.minor_version, &item->now, a->names,
				a->annots_changed ? &a->annots_new : &a->annots_now);
	}
}

/* What the piece before left in the header, less what its records were, plus what they are. The
 * last piece works it out from all records. */
int
apply_totals_of_piece(struct apply *a)
{
	const struct index_header *h = &a->ix->h;
	struct scan_tally was = { 0 }, now = { 0 };

	add_piece(a, &was, &now);
	now.exists += h->exists - was.exists;
	now.deleted += h->deleted - was.deleted;
	now.answered += h->answered - was.answered;
	now.flagged += h->flagged - was.flagged;
	now.unseen += h->unseen - was.unseen;
	now.quota_used += h->quota_mailbox_used - was.quota_used;
	now.basic ^= h->sync_basic ^ was.basic;
	now.annot ^= h->sync_annot ^ was.annot;
	now.annot_unknown |= was.annot_unknown || h->sync_annot == 0 ||
			     h->minor_version != a->h.minor_version || silent_annots(a);
	if (now.first_expunged == 0 ||
		(h->first_expunged != 0 && h->first_expunged < now.first_expunged))
		now.first_expunged = h->first_expunged;
	totals_of_piece(a, &now);
	return 0;
}

int
apply_totals_in_full(struct apply *a)
{
	struct scan_tally *t = &a->scan.tally;
	bool restates = apply_overrides(a->b) || (a->b->flags & BATCH_CREATE) != 0;

	memset(t, 0, sizeof(*t));
	t->annot = INDEX_CRC_ANNOT_START;
	int rc = apply_results(a, tally_one, a);
	if (rc != 0)
		return rc;
	if (a->b->flags & BATCH_PARTIAL) {
		totals_of_piece(a, t);
		return 0;
	}
	a->h.first_expunged = t->first_expunged;
	if (restates) {
		a->h.sync_basic = a->b->sync_basic;
		a->h.sync_annot = a->b->sync_annot;
		/* Unknown from a sender means that its counters do not add up; that of no
		 * message at all cannot be told from it. */
		bool vouched = a->b->sync_basic != 0;
		const char *wrong =
			vouched && a->sum_ok ? scan_tally_check(t, &a->h) : NULL;
		return wrong != NULL ? wrong_total(a, wrong) : 0;
	}
	a->h.sync_basic = t->basic;
	/* Unknown here and not stated is "as before", in a redo only if this is that before. */
	if (!t->annot_unknown)
		a->h.sync_annot = t->annot;
	else if (!sum_eq(mbox_sum_total(&a->sum_before), a->b->before))
		a->h.sync_annot = 0;
	if (a->sum_ok && a->b->sync_basic != 0)
		a->h.sync_basic = a->b->sync_basic;
	if (a->sum_ok && a->b->sync_annot != 0)
		a->h.sync_annot = a->b->sync_annot;
	return 0;
}

int
apply_totals_in_step(struct apply *a)
{
	const struct index_header *was = &a->ix->h;
	const struct scan_annots *annots = &a->annots_now;
	const struct scan_annots *annots_after =
		a->annots_changed ? &a->annots_new : annots;
	uint32_t basic = was->sync_basic, annot = was->sync_annot, crc;
	/* Version 10 keeps no sums, and no count that says that there is nothing to sum up. */
	bool basic_known = basic != 0 || was->num_records == 0;
	bool annot_known = annot != 0;

	for (size_t i = 0; i < a->n; i++) {
		const struct apply_item *item = &a->items[i];
		if (item->skip)
			continue;
		if (item->had) {
			basic ^= index_crc_basic(
				&item->old, (const char *const *)a->names_now.h.flags);
			if (!scan_crc_annot(was->minor_version, &item->old,
				    &a->names_now, annots, &crc))
				annot_known = false;
			annot ^= crc;
		}
		if (!item->drop) {
			basic ^= index_crc_basic(
				&item->now, (const char *const *)a->names->h.flags);
			if (!scan_crc_annot(a->h.minor_version, &item->now, a->names,
				    annots_after, &crc))
				annot_known = false;
			annot ^= crc;
			if ((item->now.flags & GONE) == INDEX_FLAG_EXPUNGED &&
				(a->h.first_expunged == 0 ||
					item->now.last_updated < a->h.first_expunged))
				a->h.first_expunged = item->now.last_updated;
		}
	}
	/* Another version counts other virtual annotations, of every record. */
	if (was->minor_version != a->h.minor_version || silent_annots(a))
		annot_known = false;
	if (a->b->sync_basic != 0 && basic_known && basic != a->b->sync_basic)
		return wrong_total(a, "sync-basic");
	if (a->b->sync_annot != 0 && annot_known && annot != a->b->sync_annot)
		return wrong_total(a, "sync-annot");
	a->h.sync_basic = a->b->sync_basic != 0 ? a->b->sync_basic
			  : basic_known         ? basic
						: 0;
	/* Not stated: as before, unless the records take another form. */
	if (a->b->sync_annot != 0)
		a->h.sync_annot = a->b->sync_annot;
	else if (annot_known)
		a->h.sync_annot = annot;
	else if (was->minor_version != a->h.minor_version)
		a->h.sync_annot = 0;
	return 0;
}
