/*
 * repair.c - the comparison of a mailbox with a peer's, and the batch that cures it.
 *
 * The peer says what it has as pairs (UID, digest of the record). What differs is stated in
 * full, what it has and we lack is dropped there (and its messages kept aside by the peer). The
 * names, all annotations and the whole header go along: they are small, and no digest covers
 * them.
 *
 * The first piece and the last one read the mailbox as a whole, so that what is unsound is noticed
 * before anything of it is sent, and the end is checked by a sum. Those in between read their
 * own records only: the cost of a mailbox does not grow with the number of its pieces.
 *
 * A cut piece states the header too, so that the peer can open the mailbox meanwhile: there the
 * counters are worked out from the records, not believed.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "meta/maker.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Is the message what its record says, byte by byte? Those that lay there ten minutes before the
 * folder last changed have long been synced, and are believed. */
static bool
body_proven(struct spool *sp, const char *dir, const struct index_record *r,
	const struct stat *folder)
{
	char name[SCAN_BODY_NAME];
	uint8_t found[SHA1_LEN];
	uint64_t size;
	struct stat st;
	int fd;

	if (spool_file(sp, dir, scan_body_name(r->uid, name), O_RDONLY | O_NOFOLLOW, 0,
		    &fd) != 0)
		return false;
	bool old = fstat(fd, &st) == 0 && st.st_ctime + 600 < folder->st_mtime;
	bool proven = old || (hash_sha1_fd(fd, found, &size) == 0 &&
				     memcmp(found, r->guid, SHA1_LEN) == 0);
	close(fd);
	return proven;
}

static uint32_t
guid_start(const uint8_t guid[SHA1_LEN])
{
	return (uint32_t)guid[0] << 24 | (uint32_t)guid[1] << 16 |
	       (uint32_t)guid[2] << 8 | guid[3];
}

int
mbox_digests(
	struct spool *sp, const char *dir, bool prove, mbox_digest_fn *fn, void *arg)
{
	struct ixfile ix;
	struct index_record r;
	struct stat folder;
	int rc = spool_stat(sp, dir, NULL, &folder);

	if (rc == 0)
		rc = ixfile_open(sp, dir, true, &ix);
	if (rc != 0)
		return rc;
	for (uint32_t i = 0, before = 0; rc == 0 && i < ix.h.num_records; i++) {
		/* One that cannot be read counts as missing. */
		if (ixfile_record(&ix, i, &r) != 0 || r.uid <= before)
			continue;
		before = r.uid;
		bool whole =
			(r.flags & (INDEX_FLAG_UNLINKED | INDEX_FLAG_ARCHIVED)) != 0 ||
			(scan_body_check(sp, dir, &r, NULL) != ERR_BODY &&
				(!prove || body_proven(sp, dir, &r, &folder)));
		struct mbox_digest d = { .uid = r.uid,
			.guid = guid_start(r.guid),
			.digest = sum_of_record(&r).hi,
			.modseq = r.modseq,
			.gone = (r.flags & INDEX_FLAG_UNLINKED) != 0   ? 2
				: (r.flags & INDEX_FLAG_EXPUNGED) != 0 ? 1
								       : 0 };
		/* Its message is not there: it is like none that the other side may have, which
		 * states it with the message, or purges it. There is nothing to be saved. */
		if (!whole) {
			d.digest = ~d.digest;
			d.guid = 0;
			d.modseq = 0;
			d.gone = d.gone == 0 ? 1 : d.gone;
		}
		rc = fn(arg, &d);
	}
	ixfile_close(&ix);
	return rc;
}

#define CURE \
	"nothing is deleted: save it from the standby's spool, then remove the " \
	"mailbox there"

static int
one_lacks(const struct ixfile *ix, const struct mbox_digest *d, bool forked,
	struct mbox_fault *fault)
{
	struct index_record r;
	uint32_t at;
	int rc = ixfile_find(ix, d->uid, &at);

	if (rc == ERR_NOTFOUND && d->uid > ix->h.last_uid)
		return scan_fault(fault, ERR_MORE, d->uid, "has-more",
			"the standby holds a message that the active side never "
			"had; " CURE);
	if (rc == ERR_NOTFOUND)
		return forked && d->gone == 0
			       ? scan_fault(fault, ERR_MORE, d->uid, "has-more",
					 "the standby holds a message that the active "
					 "side may have lost; " CURE)
			       : 0;
	/* One of ours that cannot be read is found by the repair. */
	if (rc != 0 || (rc = ixfile_record(ix, at, &r)) != 0)
		return rc == ERR_CHECKSUM || rc == ERR_MANGLED ? 0 : rc;
	uint32_t guid = guid_start(r.guid);
	if (guid != d->guid && guid != 0 && d->guid != 0 && d->gone != 2)
		return scan_fault(fault, ERR_MORE, d->uid, "has-more",
			"the standby holds another message under this UID; " CURE);
	if (d->modseq > r.modseq)
		return scan_fault(fault, ERR_MORE, d->uid, "has-more",
			"the standby holds a change that the active side lost; "
			"compare the two, then remove the mailbox from the standby's "
			"spool");
	return 0;
}

int
mbox_lacks(struct spool *sp, const char *dir, const struct mbox_digest *theirs,
	size_t n, bool forked, struct mbox_fault *fault)
{
	struct ixfile ix = { .open = false };
	int rc = n > 0 ? ixfile_open(sp, dir, true, &ix) : 0;

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = one_lacks(&ix, &theirs[i], forked, fault);
	ixfile_close(&ix);
	return rc;
}

struct repair {
	const struct mbox_digest *theirs;
	size_t n;
	uint32_t from_uid;
	size_t limit, named;
	uint32_t next; /* first UID that is left for the following piece, or 0 */
};

/* The first of theirs that is not below uid. */
static size_t
theirs_from(const struct repair *rp, uint32_t uid)
{
	size_t lo = 0, hi = rp->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (rp->theirs[mid].uid < uid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int
state_records(struct maker *m, struct repair *rp, const struct ixfile *ix)
{
	struct index_record r;
	size_t k = theirs_from(rp, rp->from_uid);
	uint32_t i, before = 0;
	int rc = ixfile_find(ix, rp->from_uid, &i);

	if (rc != 0 && rc != ERR_NOTFOUND)
		return rc;
	for (; i < ix->h.num_records; i++) {
		rc = ixfile_record(ix, i, &r);
		if (rc != 0)
			return scan_fault(m->fault, rc, r.uid, "record-crc",
				"record %" PRIu32
				" is damaged: %s; reconstruct the mailbox",
				i + 1, err_text(rc));
		if ((rc = scan_record_check(&r, before, &ix->h, m->fault)) != 0)
			return rc;
		before = r.uid;
		while (k < rp->n && rp->theirs[k].uid < r.uid)
			k++;
		if (k < rp->n && rp->theirs[k].uid == r.uid &&
			rp->theirs[k].digest == sum_of_record(&r).hi)
			continue;
		if (rp->named == rp->limit) {
			rp->next = r.uid;
			return 0;
		}
		rp->named++;
		rc = maker_append(m, &r);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int
state_purges(struct maker *m, const struct repair *rp, const struct scan *s)
{
	uint32_t at;

	for (size_t k = 0; k < rp->n; k++) {
		int rc = ixfile_find(&s->ix, rp->theirs[k].uid, &at);
		if (rc == ERR_NOTFOUND)
			rc = maker_purge(m, rp->theirs[k].uid, NULL);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* What every piece begins with. */
static int
state_whole(struct maker *m, const struct mbox_state *s, const struct scan_names *names)
{
	int rc = maker_owner(m, &s->owner);

	m->out->flags = BATCH_DERIVED;
	return rc != 0 ? rc : maker_names(m, &names->file);
}

/* A piece with others before and behind it: only its own records are read. rp->next is 0 if it
 * turned out to be the last. */
static int
middle_piece(struct maker *m, struct repair *rp, struct scan *s,
	const struct mbox_state *known, struct mbox_state *state_out)
{
	uint32_t i;
	int rc = ixfile_open(m->sp, m->dir, false, &s->ix);

	if (rc == 0)
		rc = ixfile_find(&s->ix, rp->from_uid, &i);
	if (rc != 0 && rc != ERR_NOTFOUND)
		return rc;
	if (s->ix.h.num_records - i <= rp->limit)
		return 0;
	if ((rc = scan_names_of(m->sp, m->dir, SCAN_STRICT, &s->ix, known, &s->names,
		     m->fault)) != 0 ||
		(rc = scan_owner(m->sp, m->dir, &s->ix.st, &s->owner)) != 0)
		return rc;
	scan_state(s, state_out);
	m->no_cache_crc = s->ix.h.minor_version < 12;
	if ((rc = state_whole(m, state_out, &s->names)) == 0 &&
		(rc = state_records(m, rp, &s->ix)) == 0 && rp->next != 0) {
		m->out->flags |= BATCH_PARTIAL;
		rc = maker_header(m, &s->ix.h, CHANGE_ALL);
	}
	return rc;
}

/* The first piece and the last one: the mailbox is read and checked as a whole. */
static int
outer_piece(struct maker *m, struct repair *rp, struct scan *s,
	const struct mbox_state *known, struct mbox_state *state_out)
{
	int rc = scan_open(m->sp, m->dir, SCAN_STRICT, known, s, m->fault);

	if (rc != 0)
		return rc;
	scan_state(s, state_out);
	m->no_cache_crc = s->ix.h.minor_version < 12;
	m->out->after = mbox_sum_total(&state_out->sum);
	if (scan_tally_check(&s->tally, &s->ix.h) == NULL) {
		m->out->sync_basic = s->ix.h.sync_basic;
		m->out->sync_annot = s->ix.h.sync_annot;
	}
	if ((rc = state_whole(m, state_out, &s->names)) == 0)
		rc = state_records(m, rp, &s->ix);
	if (rp->next != 0)
		m->out->flags |= BATCH_PARTIAL;
	if (rc == 0 && rp->next == 0)
		rc = state_purges(m, rp, s);
	if (rc == 0 && rp->next == 0)
		rc = maker_all_annots(m, &s->annots);
	if (rc == 0)
		rc = maker_header(m, &s->ix.h, CHANGE_ALL);
	return rc;
}

static int
piece(struct spool *sp, const struct mbox_delta *d, struct repair *rp,
	struct batch *out, struct mbox_state *state_out, uint32_t *next_out,
	struct mbox_fault *fault)
{
	struct scan s = { .holes = 0 };
	struct maker m;

	*next_out = 0;
	int rc = maker_begin(&m, d, sp, out, fault);
	if (rc == 0 && rp->from_uid > 0) {
		rc = middle_piece(&m, rp, &s, d->before, state_out);
		scan_close(&s);
		if (rc != 0 || rp->next != 0)
			goto out;
		/* There is no piece behind it: begun again, as the last one. */
		(void)maker_finish(&m, state_out, ERR_BUSY);
		rp->named = 0;
		rc = maker_begin(&m, d, sp, out, fault);
	}
	if (rc != 0)
		return rc;
	rc = outer_piece(&m, rp, &s, d->before, state_out);
	scan_close(&s);
out:
	*next_out = rp->next;
	return maker_finish(&m, state_out, rc);
}

int
mbox_repair(struct spool *sp, const char *dir, const struct mbox_state *known,
	const struct mbox_digest *theirs, size_t n, uint32_t from_uid, size_t limit,
	mbox_ref_fn *ref, void *ref_arg, struct batch *out,
	struct mbox_state *state_out, uint32_t *next_out, struct mbox_fault *fault)
{
	struct mbox_delta d = {
		.dir = dir, .before = known, .ref = ref, .ref_arg = ref_arg
	};
	struct repair rp = { .theirs = theirs,
		.n = n,
		.from_uid = from_uid,
		.limit = limit > 0 ? limit : 1 };

	*next_out = 0;
	for (size_t i = 0; from_uid == 0 && i < n; i++)
		if (theirs[i].uid == 0 || (i > 0 && theirs[i].uid <= theirs[i - 1].uid))
			return ERR_PROTO;
	return piece(sp, &d, &rp, out, state_out, next_out, fault);
}

int
mbox_piece(struct spool *sp, const struct mbox_delta *d, uint32_t from_uid,
	struct batch *out, struct mbox_state *state_out, uint32_t *next_out,
	struct mbox_fault *fault)
{
	struct repair rp = { .from_uid = from_uid, .limit = d->limit };

	return piece(sp, d, &rp, out, state_out, next_out, fault);
}
