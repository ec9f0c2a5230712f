/*
 * How it works: one pass over the records checks each by itself and adds up what the header keeps
 * as counts and sums; a second pass over cyrus.annotations adds what annotations contribute. Then
 * the totals are compared. A record whose CRC is wrong is told and left out of the totals, which
 * are then not compared: what would be said about them is only an echo.
 */
#include "meta/fsck_own.h"
#include "meta/base/err.h"
#include "meta/db.h"
#include "meta/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define MAX_ANNOTS ((size_t)256 << 20)
#define OLD_CONDSTORE 0x2u

struct totals {
	uint32_t exists, answered, flagged, deleted, unseen;
	uint64_t size, deleted_size, expunged_size;
	uint32_t basic, annot;
	uint64_t annot_bytes;
	uint64_t first_expunged;
	bool cleanup, damaged, annots_unknown;
};

bool
fsck_index_open(struct fsck *f)
{
	int rc = index_view_open(&f->v, f->index.data, f->index.len);

	switch (rc) {
	case 0:
		return true;
	case ERR_VERSION:
		fsck_tell(f, FSCK_MUST, 0, "index-version", FSCK_RESTORE,
			"the version or the sizes in the header of cyrus.index are "
			"not "
			"known");
		break;
	case ERR_CHECKSUM:
		fsck_tell(f, FSCK_MUST, 0, "index-crc", FSCK_RECONSTRUCT,
			"the CRC of the header of cyrus.index is wrong");
		break;
	default:
		fsck_tell(f, FSCK_MUST, 0, "index-size", FSCK_RECONSTRUCT,
			"cyrus.index has %zu bytes, too few for its header or its %u "
			"records",
			f->index.len, f->v.header.num_records);
	}
	return false;
}

static void
check_flags(struct fsck *f, const struct index_record *r)
{
	uint32_t unknown = r->flags & ~INDEX_FLAG_KNOWN;

	if (unknown != 0)
		fsck_tell(f, FSCK_MUST, r->uid, "record-flags", FSCK_RECONSTRUCT,
			"unknown flag bits 0x%x", unknown);
	if ((r->flags & INDEX_FLAG_UNLINKED) && !(r->flags & INDEX_FLAG_EXPUNGED))
		fsck_tell(f, FSCK_MUST, r->uid, "record-flags", FSCK_RECONSTRUCT,
			"unlinked but not expunged");
	if (!f->have_names)
		return;
	for (unsigned i = 0; i < INDEX_USER_FLAGS; i++)
		if ((r->user_flags[i / 32] >> (i % 32) & 1) &&
			f->names.flags[i] == NULL) {
			fsck_tell(f, FSCK_MUST, r->uid, "user-flags", FSCK_RECONSTRUCT,
				"keyword number %u is set and has no name in "
				"cyrus.header",
				i);
			break;
		}
}

static void
check_record(
	struct fsck *f, const struct index_record *r, uint32_t before, struct totals *t)
{
	const struct index_header *h = &f->v.header;

	if (r->uid <= before)
		fsck_tell(f, FSCK_MUST, r->uid, "uid-order", FSCK_RECONSTRUCT,
			"comes after UID %u", before);
	if (r->uid > h->last_uid)
		fsck_tell(f, FSCK_MUST, r->uid, "last-uid", FSCK_RECONSTRUCT,
			"above the last UID of the header, %u", h->last_uid);
	if (r->modseq > h->highestmodseq)
		fsck_tell(f, FSCK_MUST, r->uid, "modseq", FSCK_RECONSTRUCT,
			"modseq %" PRIu64 " is above the mailbox's highest, %" PRIu64,
			r->modseq, h->highestmodseq);
	if (r->createdmodseq > r->modseq)
		fsck_tell(f, FSCK_MUST, r->uid, "modseq", FSCK_RECONSTRUCT,
			"created at modseq %" PRIu64 ", after its modseq %" PRIu64,
			r->createdmodseq, r->modseq);
	check_flags(f, r);
	t->cleanup |= (r->flags & INDEX_FLAG_NEEDS_CLEANUP) != 0;
	if (r->flags & INDEX_FLAG_EXPUNGED) {
		if (r->flags & INDEX_FLAG_UNLINKED)
			return;
		t->expunged_size += r->size;
		if (t->first_expunged == 0 || r->last_updated < t->first_expunged)
			t->first_expunged = r->last_updated;
		return;
	}
	t->exists++;
	t->size += r->size;
	t->answered += (r->flags & INDEX_FLAG_ANSWERED) != 0;
	t->flagged += (r->flags & INDEX_FLAG_FLAGGED) != 0;
	t->unseen += (r->flags & INDEX_FLAG_SEEN) == 0;
	if (r->flags & INDEX_FLAG_DELETED) {
		t->deleted++;
		t->deleted_size += r->size;
	}
	t->basic ^= index_crc_basic(r, (const char *const *)f->names.flags);
	t->annot ^= index_crc_virtual(h->minor_version, r);
}

/* Is it an annotation that this version keeps in the record instead? */
static bool
is_virtual(uint32_t minor, const char *entry)
{
	static const struct {
		uint32_t since;
		const char *entry;
	} rows[] = {
		{ 13, "/vendor/cmu/cyrus-imapd/thrid" },
		{ 15, "/vendor/cmu/cyrus-imapd/savedate" },
		{ 16, "/vendor/cmu/cyrus-imapd/createdmodseq" },
		{ 20, "/vendor/cmu/cyrus-imapd/internaldate.nsec" },
		{ 20, "/vendor/cmu/cyrus-imapd/basethrid" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (minor >= rows[i].since && strcmp(entry, rows[i].entry) == 0)
			return true;
	return false;
}

struct annots {
	struct fsck *f;
	struct totals *t;
};

static int
check_annot(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct annots *w = arg;
	struct fsck *f = w->f;
	struct index_record r;
	struct db_annot a;
	uint32_t i;

	if (db_annot_decode(key, klen, val, vlen, &a) != 0) {
		fsck_tell(f, FSCK_MUST, 0, "annot-record", FSCK_RESTORE,
			"a record of cyrus.annotations does not parse");
		return 0;
	}
	int rc = index_view_find(&f->v, a.uid, &i);
	if (rc == 0)
		rc = index_view_record(&f->v, i, &r);
	if (rc == ERR_NOTFOUND || (rc == 0 && (r.flags & INDEX_FLAG_UNLINKED))) {
		fsck_tell(f, FSCK_SHOULD, a.uid, "annot-uid", FSCK_RECONSTRUCT,
			"has the annotation %.60s but is not in the index", a.entry);
		return 0;
	}
	/* An upgrade moves the value into the record and leaves a tombstone. */
	if (!(a.flags & 1) && is_virtual(f->v.header.minor_version, a.entry)) {
		fsck_tell(f, FSCK_SHOULD, a.uid, "annot-virtual", FSCK_RECONSTRUCT,
			"the annotation %.60s belongs into the record", a.entry);
		return 0;
	}
	if (rc != 0 || (r.flags & INDEX_FLAG_EXPUNGED) || (a.flags & 1))
		return 0;
	w->t->annot_bytes += a.value_len;
	if (a.value_len == 0)
		return 0;
	bool owner = strcmp(a.userid, "[.OwNeR.]") == 0;
	if (owner && f->owner[0] == '\0')
		w->t->annots_unknown = true;
	w->t->annot ^= index_crc_annot(
		a.uid, a.entry, owner ? f->owner : a.userid, a.value, a.value_len);
	return 0;
}

static void
say_twoskip(void *arg, const char *check, const char *text)
{
	bool busy = strcmp(check, "twoskip-dirty") == 0 ||
		    strcmp(check, "twoskip-size") == 0;

	fsck_tell(arg, busy ? FSCK_TRANSIENT : FSCK_MUST, 0, check, FSCK_RESTORE,
		"cyrus.annotations: %s", text);
}

static int
check_annots(struct fsck *f, struct totals *t)
{
	struct buf file = BUF_INIT;
	struct annots walk = { f, t };
	int rc = fsck_read(f, "cyrus.annotations", MAX_ANNOTS, &file);

	/* Empty it is what Cyrus makes first of it, and has none. */
	if (rc == 0 && file.len > 0) {
		if (db_twoskip_check(file.data, file.len, say_twoskip, f) != 0)
			t->annots_unknown = true;
		db_twoskip_walk(file.data, file.len, check_annot, &walk);
	} else if (rc == ERR_NOTFOUND) {
		rc = 0;
	}
	buf_fini(&file);
	return rc;
}

static void
check_header(struct fsck *f)
{
	const struct index_header *h = &f->v.header;
	size_t tail = (f->index.len - h->start_offset) % h->record_size;
	uint32_t options = h->options & ~INDEX_OPT_KNOWN;

	/* Whole records behind the last counted one are an append that never became one. */
	if (tail != 0)
		fsck_tell(f, FSCK_TRANSIENT, 0, "index-tail", FSCK_RECONSTRUCT,
			"%zu bytes of a torn record at the end of cyrus.index", tail);
	if (h->minor_version < 12)
		options &= ~OLD_CONDSTORE;
	if (options != 0)
		fsck_tell(f, FSCK_MUST, 0, "options", FSCK_RECONSTRUCT,
			"unknown options 0x%x", options);
	if (h->options & INDEX_OPT_DELETED)
		fsck_tell(f, FSCK_TRANSIENT, 0, "removed", FSCK_RECONSTRUCT,
			"marked as removed, but still there");
	if (h->uidvalidity == 0)
		fsck_tell(f, FSCK_MUST, 0, "uidvalidity", FSCK_RECONSTRUCT,
			"the UID validity is 0");
	if (h->deletedmodseq > h->highestmodseq)
		fsck_tell(f, FSCK_MUST, 0, "modseq", FSCK_RECONSTRUCT,
			"deletedmodseq %" PRIu64 " is above the highest, %" PRIu64,
			h->deletedmodseq, h->highestmodseq);
	if (h->minor_version >= 12 && f->file.len > 0 &&
		hash_crc32(0, f->file.data, f->file.len) != h->header_file_crc)
		fsck_tell(f, FSCK_SHOULD, 0, "header-file-crc",
			"change a right of this mailbox (setacl); reconstruct leaves "
			"it so",
			"cyrus.index expects another cyrus.header than is there");
}

static void
check_totals(struct fsck *f, const struct totals *t)
{
	const struct index_header *h = &f->v.header;
	const struct {
		uint32_t since;
		const char *check, *what;
		uint64_t stored, counted;
	} rows[] = {
		{ 12, "counts", "exists", h->exists, t->exists },
		{ 10, "counts", "answered", h->answered, t->answered },
		{ 10, "counts", "flagged", h->flagged, t->flagged },
		{ 10, "counts", "deleted", h->deleted, t->deleted },
		{ 14, "counts", "unseen", h->unseen, t->unseen },
		{ 10, "quota-used", "quota_mailbox_used", h->quota_mailbox_used,
			t->size },
		{ 18, "quota-used", "quota_deleted_used", h->quota_deleted_used,
			t->deleted_size },
		{ 18, "quota-used", "quota_expunged_used", h->quota_expunged_used,
			t->expunged_size },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (h->minor_version >= rows[i].since &&
			rows[i].stored != rows[i].counted)
			fsck_tell(f, FSCK_TRANSIENT, 0, rows[i].check, FSCK_RECONSTRUCT,
				"%s is %" PRIu64 ", the records say %" PRIu64,
				rows[i].what, rows[i].stored, rows[i].counted);
	/* A stored 0 is "not known" to Cyrus. */
	if (h->minor_version >= 12 && f->have_names && h->sync_basic != 0 &&
		h->sync_basic != t->basic)
		fsck_tell(f, FSCK_TRANSIENT, 0, "sync-basic", FSCK_RECONSTRUCT,
			"the sum of the records is %08x, the header says %08x",
			t->basic, h->sync_basic);
	if (t->cleanup && !(h->options & INDEX_OPT_NEEDS_UNLINK))
		fsck_tell(f, FSCK_MUST, 0, "needs-unlink", FSCK_RECONSTRUCT,
			"records wait to be cleaned up, the header does not say so");
	if (h->minor_version >= 12 && t->first_expunged != 0 &&
		(h->first_expunged == 0 || h->first_expunged > t->first_expunged))
		fsck_tell(f, FSCK_SHOULD, 0, "first-expunged", FSCK_EXPIRE,
			"there is an older expunged message than the header says");
	if (t->annots_unknown || h->minor_version < 13)
		return;
	/* Releases before 3.2 began with 0. */
	if (h->sync_annot != 0 && h->sync_annot != t->annot &&
		h->sync_annot != (t->annot ^ INDEX_CRC_ANNOT_START))
		fsck_tell(f, FSCK_TRANSIENT, 0, "sync-annot", FSCK_RECONSTRUCT,
			"the sum of the annotations is %08x, the header says %08x",
			t->annot ^ INDEX_CRC_ANNOT_START, h->sync_annot);
	/* Those of the mailbox itself are not on the partition, and are counted too. */
	if (h->quota_annot_used < t->annot_bytes)
		fsck_tell(f, FSCK_SHOULD, 0, "quota-annot", FSCK_RECONSTRUCT,
			"annotations take %" PRIu64 " bytes, the header says %" PRIu64,
			t->annot_bytes, h->quota_annot_used);
}

static void
check_generation(struct fsck *f, int cache_fd)
{
	uint8_t word[4];

	if (pread(cache_fd, word, 4, 0) != 4)
		return;
	uint32_t generation = (uint32_t)word[0] << 24 | (uint32_t)word[1] << 16 |
			      (uint32_t)word[2] << 8 | word[3];
	if (generation != f->v.header.generation_no)
		fsck_tell(f, FSCK_SHOULD, 0, "cache-generation", FSCK_RECONSTRUCT,
			"cyrus.cache is of generation %u, cyrus.index of %u",
			generation, f->v.header.generation_no);
}

int
fsck_index_check(struct fsck *f)
{
	struct totals t = { 0 };
	struct index_record r;
	uint32_t before = 0;
	int rc = 0;
	int cache_fd = openat(f->fd, "cyrus.cache", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	check_header(f);
	if (cache_fd >= 0)
		check_generation(f, cache_fd);
	for (uint32_t i = 0; rc == 0 && i < f->v.header.num_records; i++) {
		int bad = index_view_record(&f->v, i, &r);
		if (bad == ERR_CHECKSUM)
			fsck_tell(f, FSCK_MUST, r.uid, "record-crc", FSCK_RECONSTRUCT,
				"the CRC of record %u is wrong", i + 1);
		else if (bad != 0)
			fsck_tell(f, FSCK_MUST, 0, "uid-order", FSCK_RECONSTRUCT,
				"record %u has no UID", i + 1);
		if (bad != 0) {
			t.damaged = true;
			continue;
		}
		check_record(f, &r, before, &t);
		if (r.uid > before)
			before = r.uid;
		rc = fsck_body_check(f, &r, cache_fd);
	}
	if (rc == 0)
		rc = check_annots(f, &t);
	if (rc == 0 && !t.damaged)
		check_totals(f, &t);
	f->annots_known = rc == 0 && !t.damaged && !t.annots_unknown;
	f->annot_bytes = t.annot_bytes;
	if (cache_fd >= 0)
		close(cache_fd);
	return rc;
}
