/*
 * delta.c - from a state to the files as they are now, stated as a batch.
 *
 * Two ways. By touch: the state was the files', and we are told which records were written since.
 * Only these are read (and their neighbours' UIDs checked), the sum is that of the state less
 * what they were plus what they are. In full: everything is read and summed up; used when there
 * is no such state (new, derived, whole) and after a repack, where the file that was replaced
 * tells which UIDs went.
 *
 * Nothing leaves unchecked: a damaged record, one without a GUID, an append without its message
 * or an expunge taken back is a fault of that mailbox, and no batch is made. Counters of a
 * header are believed as far as they can be (a Cyrus process that died between its records and
 * its header leaves them wrong, F7.4): where a full reading finds others, the batch states
 * Cyrus's own sum as unknown, which tells the peer not to insist on the counters either.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "meta/maker.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* So few annotations are stated all together, whichever of them changed. */
#define ANNOTS_FEW 16

/* ---- by touch ---- */

struct touch {
	uint32_t recno;
	const struct index_record *before; /* NULL: new */
};

static int
by_recno(const void *a, const void *b)
{
	const struct touch *x = a, *y = b;

	return x->recno < y->recno ? -1 : x->recno > y->recno;
}

/* The touched records that the header counts, and every new one whether touched or not. */
static int
list_touched(const struct mbox_delta *d, const struct index_header *h,
	struct touch **list_out, size_t *n_out)
{
	uint32_t had = d->before->header.num_records;
	size_t n = 0, fresh = h->num_records - had;
	struct touch *list = calloc(d->n_touched + fresh + 1, sizeof(*list));

	if (list == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < d->n_touched; i++) {
		if (d->touched[i].recno >= had)
			continue;
		if (!d->touched[i].had) {
			free(list);
			return ERR_USAGE;
		}
		list[n].recno = d->touched[i].recno;
		list[n++].before = &d->touched[i].before;
	}
	if (n > 1)
		qsort(list, n, sizeof(*list), by_recno);
	size_t unique = 0;
	for (size_t i = 0; i < n; i++)
		if (unique == 0 || list[unique - 1].recno != list[i].recno)
			list[unique++] = list[i];
	for (uint32_t i = had; i < h->num_records; i++)
		list[unique++].recno = i;
	*list_out = list;
	*n_out = unique;
	return 0;
}

/* What may never happen to a record in place (F9.13, F9.14). */
static int
check_step(const struct index_record *was, const struct index_record *is,
	struct mbox_fault *fault)
{
	static const uint8_t zero[SHA1_LEN];

	if (was->uid != is->uid)
		return scan_fault(fault, ERR_MANGLED, is->uid, "uid-order",
			"its record was UID %" PRIu32
			" before; reconstruct the mailbox",
			was->uid);
	if (memcmp(was->guid, is->guid, SHA1_LEN) != 0 &&
		memcmp(was->guid, zero, SHA1_LEN) != 0)
		return scan_fault(fault, ERR_MANGLED, is->uid, "guid",
			"the record names another message than before; "
			"reconstruct the mailbox");
	if (memcmp(was->guid, zero, SHA1_LEN) != 0 &&
		(was->size != is->size || was->internaldate != is->internaldate ||
			was->header_size != is->header_size))
		return scan_fault(fault, ERR_MANGLED, is->uid, "message",
			"size or date of the message is not what it was; "
			"reconstruct the mailbox");
	if ((was->flags & ~is->flags & (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)) !=
		0)
		return scan_fault(fault, ERR_MANGLED, is->uid, "expunge",
			"an expunge was taken back; reconstruct the mailbox");
	return 0;
}

static int
read_checked(const struct ixfile *ix, uint32_t i, struct index_record *out,
	struct mbox_fault *fault)
{
	int rc = ixfile_record(ix, i, out);

	if (rc != 0 && rc != ERR_IO)
		return scan_fault(fault, rc, out->uid, "record-crc",
			"record %" PRIu32 " is damaged: %s; reconstruct the mailbox",
			i + 1, err_text(rc));
	return rc;
}

static int
touched_records(struct maker *m, const struct ixfile *ix, const struct touch *list,
	size_t n, struct sum *sum)
{
	const struct index_header *h = &ix->h;
	struct index_record r, near = { .uid = 0 };
	uint32_t near_at = UINT32_MAX; /* position of near, the last record read */
	int rc;

	for (size_t k = 0; k < n; k++) {
		uint32_t i = list[k].recno;
		if (i > 0 && near_at != i - 1) {
			rc = read_checked(ix, i - 1, &near, m->fault);
			if (rc != 0)
				return rc;
		}
		rc = read_checked(ix, i, &r, m->fault);
		if (rc == 0)
			rc = scan_record_check(&r, i > 0 ? near.uid : 0, h, m->fault);
		if (rc != 0)
			return rc;
		if (r.modseq > h->highestmodseq)
			return scan_fault(m->fault, ERR_MANGLED, r.uid, "modseq",
				"modseq %" PRIu64 " is above highestmodseq %" PRIu64
				"; reconstruct the mailbox",
				r.modseq, h->highestmodseq);
		if (i + 1 < h->num_records &&
			(k + 1 == n || list[k + 1].recno != i + 1)) {
			rc = read_checked(ix, i + 1, &near, m->fault);
			if (rc == 0)
				rc = scan_record_check(&near, r.uid, h, m->fault);
			if (rc != 0)
				return rc;
		}
		if (list[k].before != NULL) {
			rc = check_step(list[k].before, &r, m->fault);
			if (rc != 0)
				return rc;
			uint64_t mask = change_record_diff(list[k].before, &r);
			sum_sub(sum, sum_of_record(list[k].before));
			if (mask != 0)
				rc = maker_update(m, &r, mask);
		} else {
			rc = maker_append(m, &r);
		}
		if (rc != 0)
			return rc;
		sum_add(sum, sum_of_record(&r));
		near = r;
		near_at = i;
	}
	return 0;
}

static int
touched_annots(struct maker *m, const struct ixfile *ix, const struct touch *list,
	size_t n, struct sum *sum)
{
	struct scan_annots annots;
	struct index_record r;
	int rc = scan_annots_load(m->sp, m->dir, &annots);

	if (rc != 0)
		return rc == ERR_BUSY ? rc
				      : scan_fault(m->fault, rc, 0, "annotations",
						"cyrus.annotations cannot be read: %s; "
						"restore the file",
						err_text(rc));
	struct sum now = scan_annots_sum(annots.list, annots.n);
	if (sum_eq(now, *sum))
		goto out;
	*sum = now;
	if (n == 0 || annots.n <= ANNOTS_FEW) {
		rc = maker_all_annots(m, &annots);
		goto out;
	}
	for (size_t k = 0; rc == 0 && k < n; k++) {
		size_t count;
		rc = ixfile_record(ix, list[k].recno, &r);
		if (rc != 0)
			break;
		const struct db_annot *of = scan_annots_of(&annots, r.uid, &count);
		rc = maker_annots(m, r.uid, of, count);
	}
out:
	scan_annots_close(&annots);
	return rc;
}

/* cyrus.header as the index header confirms it, or as Cyrus left it when it was killed before
 * that; the state's sum of the names becomes its sum. */
static int
touched_names(struct maker *m, const struct index_header *h,
	const struct mbox_state *known, bool locked, struct mbox_state *state)
{
	struct scan_names names;
	int rc = scan_names_load(m->sp, m->dir, &names);

	if (rc != 0) {
		rc = scan_fault(m->fault, rc == ERR_NOTFOUND ? ERR_MANGLED : rc, 0,
			"header-file",
			"cyrus.header cannot be read: %s; reconstruct the mailbox",
			err_text(rc));
		goto out;
	}
	uint64_t since = locked ? UINT64_MAX : known->index_mtime;
	rc = scan_names_check(&names, h, known, since, m->fault);
	if (rc != 0)
		goto out;
	struct sum now = sum_of_names(names.file.data, names.file.len);
	if (!sum_eq(now, state->sum.names)) {
		state->sum.names = now;
		memset(state->uniqueid, 0, sizeof(state->uniqueid));
		memcpy(state->uniqueid, names.h.uniqueid,
			strnlen(names.h.uniqueid, sizeof(state->uniqueid) - 1));
		rc = maker_names(m, &names.file);
	}
out:
	scan_names_close(&names);
	return rc;
}

static int
check_header_step(const struct index_header *was, const struct index_header *is,
	struct mbox_fault *fault)
{
	if (is->num_records < was->num_records)
		return scan_fault(fault, ERR_MANGLED, 0, "record-count",
			"the index counts %" PRIu32 " records, it was %" PRIu32
			"; reconstruct the mailbox",
			is->num_records, was->num_records);
	/* Version 10 does not say how many of its records are messages. */
	uint32_t most = is->minor_version >= 12 ? is->exists : is->num_records;
	if (most > is->num_records || is->deleted > most || is->answered > most ||
		is->flagged > most || is->unseen > most)
		return scan_fault(fault, ERR_MANGLED, 0, "counts",
			"the header counts more messages than there are records; "
			"reconstruct the mailbox");
	return 0;
}

static int
by_touch(struct maker *m, const struct mbox_delta *d, const struct ixfile *ix,
	struct mbox_state *state)
{
	const struct index_header *was = &d->before->header;
	const struct change_owner *o = &d->before->owner;
	struct touch *list = NULL;
	size_t n = 0;
	int rc;

	*state = *d->before;
	state->header = ix->h;
	state->sum.header = sum_of_header(&ix->h);
	scan_stamp(&ix->st, state);
	rc = check_header_step(was, &ix->h, m->fault);
	if (rc == 0)
		rc = list_touched(d, &ix->h, &list, &n);
	if (rc == 0 && (ix->st.st_uid != o->uid || ix->st.st_gid != o->gid ||
			       (ix->st.st_mode & 07777) != o->index_mode)) {
		rc = scan_owner(m->sp, m->dir, &ix->st, &state->owner);
		if (rc == 0)
			rc = maker_owner(m, &state->owner);
	}
	if (rc == 0 && (d->names || ix->h.minor_version < 12 ||
			       ix->h.header_file_crc != was->header_file_crc))
		rc = touched_names(m, &ix->h, d->before, d->locked, state);
	if (rc == 0)
		rc = touched_records(m, ix, list, n, &state->sum.records);
	if (rc == 0 && d->annots)
		rc = touched_annots(m, ix, list, n, &state->sum.annots);
	uint64_t mask = change_header_diff(was, &ix->h);
	if (rc == 0 && mask != 0)
		rc = maker_header(m, &ix->h, mask);
	m->out->before = mbox_sum_total(&d->before->sum);
	m->out->after = mbox_sum_total(&state->sum);
	if (ix->h.sync_basic != was->sync_basic)
		m->out->sync_basic = ix->h.sync_basic;
	if (ix->h.sync_annot != was->sync_annot)
		m->out->sync_annot = ix->h.sync_annot;
	free(list);
	return rc;
}

/* ---- in full ---- */

struct full {
	const struct mbox_delta *d;
	bool known; /* there is a state before */
	bool repack; /* old is the index that was replaced */
	struct index_view old;
};

static int
full_record(struct maker *m, const struct full *f, const struct index_record *r)
{
	struct index_record was;
	uint32_t at;

	if (f->repack) {
		if (index_view_find(&f->old, r->uid, &at) != 0)
			return maker_append(m, r);
		int rc = index_view_record(&f->old, at, &was);
		uint64_t mask = rc == 0 ? change_record_diff(&was, r) : CHANGE_ALL;
		/* Written but never committed before the repack copied it. */
		if (r->modseq > f->d->before->header.highestmodseq)
			mask = CHANGE_ALL;
		return mask != 0 ? maker_update(m, r, mask) : 0;
	}
	if (!f->known || f->d->whole || r->uid > f->d->before->header.last_uid)
		return maker_append(m, r);
	if (r->modseq > f->d->before->header.highestmodseq)
		return maker_update(m, r, CHANGE_ALL);
	return 0;
}

/* UIDs of the index that was replaced which are in the new one no more. */
static int
full_purges(struct maker *m, const struct full *f, const struct scan *s)
{
	struct index_record r;
	uint32_t at;

	for (uint32_t i = 0; i < f->old.header.num_records; i++) {
		int rc = index_view_record(&f->old, i, &r);
		if (rc != 0)
			return scan_fault(m->fault, rc, r.uid, "record-crc",
				"a record that was dropped is damaged: %s",
				err_text(rc));
		if (ixfile_find(&s->ix, r.uid, &at) == 0)
			continue;
		if ((r.flags & INDEX_FLAG_UNLINKED) == 0)
			return scan_fault(m->fault, ERR_MANGLED, r.uid, "purge",
				"the record was dropped and had not been unlinked");
		rc = maker_purge(m, r.uid, r.guid);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int
in_full(struct maker *m, const struct full *f, const struct scan *s,
	struct mbox_state *state)
{
	const struct mbox_delta *d = f->d;
	const struct index_header *h = &s->ix.h;
	struct batch *out = m->out;
	struct index_record r;
	int rc = 0;

	scan_state(s, state);
	if (f->repack)
		out->before = mbox_sum_total(&d->before->sum);
	else if (!f->known && !d->whole)
		out->flags |= BATCH_CREATE;
	else
		out->flags |= BATCH_DERIVED | (d->whole ? BATCH_WHOLE : 0);
	out->after = mbox_sum_total(&state->sum);
	out->sync_basic = h->sync_basic;
	out->sync_annot = h->sync_annot;
	const char *wrong = scan_tally_check(&s->tally, h);
	if (wrong != NULL) {
		scan_fault(m->fault, 0, 0, wrong,
			"mailbox header does not add up, reconstruct it");
		out->sync_basic = out->sync_annot = 0;
		/* Unknown to the peer: the next header states them again. */
		state->header.sync_basic = state->header.sync_annot = 0;
	}
	bool all = !f->repack;
	if (all || memcmp(&state->owner, &d->before->owner, sizeof(state->owner)) != 0)
		rc = maker_owner(m, &state->owner);
	if (rc == 0 && (all || !sum_eq(state->sum.names, d->before->sum.names)))
		rc = maker_names(m, &s->names.file);
	if (rc == 0 && f->repack)
		rc = full_purges(m, f, s);
	for (uint32_t i = 0; rc == 0 && i < h->num_records; i++) {
		rc = ixfile_record(&s->ix, i, &r);
		if (rc == 0)
			rc = full_record(m, f, &r);
	}
	if (rc == 0 && (all ? s->annots.n > 0 || f->known
			    : !sum_eq(state->sum.annots, d->before->sum.annots)))
		rc = maker_all_annots(m, &s->annots);
	uint64_t mask = all ? CHANGE_ALL : change_header_diff(&d->before->header, h);
	if (rc == 0 && mask != 0)
		rc = maker_header(m, h, mask);
	return rc;
}

static int
removal(struct maker *m, const struct mbox_delta *d, bool known,
	struct mbox_state *state)
{
	struct scan_names names;

	m->out->flags = BATCH_REMOVE | (known ? 0 : BATCH_DERIVED);
	memset(state, 0, sizeof(*state));
	if (known) {
		m->out->before = mbox_sum_total(&d->before->sum);
		memcpy(state->uniqueid, d->before->uniqueid, sizeof(state->uniqueid));
		return 0;
	}
	if (scan_names_load(m->sp, m->dir, &names) == 0)
		memcpy(state->uniqueid, names.h.uniqueid,
			strnlen(names.h.uniqueid, sizeof(state->uniqueid) - 1));
	scan_names_close(&names);
	return 0;
}

int
mbox_delta(struct spool *sp, const struct mbox_delta *d, const void *old_index,
	size_t old_size, struct batch *out, struct mbox_state *state_out,
	struct mbox_fault *fault)
{
	struct full f = { .d = d };
	struct ixfile ix = { .open = false };
	struct scan s = { .holes = 0 };
	struct mbox_state state;
	struct maker m;
	int rc;

	f.known = d->before != NULL && d->before->header.minor_version != 0;
	rc = maker_begin(&m, d, sp, out, fault);
	if (rc != 0)
		return rc;
	rc = ixfile_open(sp, d->dir, false, &ix);
	if (rc == ERR_NOTFOUND && f.known)
		rc = scan_fault(fault, ERR_MANGLED, 0, "index-missing",
			"cyrus.index is gone; restore or reconstruct the mailbox");
	else if (rc != 0 && rc != ERR_NOTFOUND)
		scan_fault(fault, rc, 0, "index-header",
			"cyrus.index cannot be read: %s; reconstruct the mailbox",
			err_text(rc));
	if (rc != 0)
		goto out;
	m.no_cache_crc = ix.h.minor_version < 12;
	if (ix.h.options & INDEX_OPT_DELETED) {
		rc = removal(&m, d, f.known, &state);
		goto out;
	}
	f.repack = f.known && old_index != NULL && !d->derive && !d->whole;
	if (f.known && !f.repack && !d->derive && !d->whole &&
		ix.h.generation_no == d->before->header.generation_no &&
		ix.h.minor_version == d->before->header.minor_version) {
		rc = by_touch(&m, d, &ix, &state);
	} else {
		if (f.repack) {
			rc = index_view_open(&f.old, old_index, old_size);
			if (rc != 0)
				goto out;
		}
		rc = scan_open(
			sp, d->dir, SCAN_STRICT, f.known ? d->before : NULL, &s, fault);
		if (rc == 0 && d->locked)
			rc = scan_names_check(&s.names, &s.ix.h,
				f.known ? d->before : NULL, UINT64_MAX, fault);
		if (rc == 0)
			rc = in_full(&m, &f, &s, &state);
	}
	if (rc == 0 && out->n == 0) {
		*state_out = state;
		rc = ERR_NOTFOUND;
	}
out:
	scan_close(&s);
	ixfile_close(&ix);
	rc = maker_finish(&m, &state, rc);
	if (rc == 0) {
		*state_out = state;
		if (out->flags & BATCH_REMOVE)
			memset(state_out, 0, sizeof(*state_out));
	}
	return rc;
}
