/*
 * scan.c - reading a mailbox as a whole, and the invariants of its records (F9).
 *
 * The index is read into memory first, then the names, then the annotations. On a live mailbox
 * the latter two may be newer than the index: Cyrus renames cyrus.header into place before it
 * writes the header that confirms it. If it dies in between nobody takes that back, so names
 * that are younger than what is known are taken; see scan_names_check.
 */
#include "meta/scan.h"

#include "meta/base/err.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NS 1000000000u
#define OWNER_TOKEN "[.OwNeR.]"

int
scan_fault(struct mbox_fault *fault, int rc, uint32_t uid, const char *check,
	const char *fmt, ...)
{
	va_list ap;

	if (fault == NULL)
		return rc;
	fault->uid = uid;
	snprintf(fault->check, sizeof(fault->check), "%s", check);
	va_start(ap, fmt);
	vsnprintf(fault->text, sizeof(fault->text), fmt, ap);
	va_end(ap);
	return rc;
}

static uint64_t
ns_of(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * NS + (uint64_t)st->st_mtim.tv_nsec;
}

/* ---- names ---- */

static int
decode_names(struct scan_names *n, const char *dir)
{
	int rc = header_decode(n->file.data, n->file.len, &n->h);

	if (rc != 0)
		return rc;
	n->decoded = true;
	header_owner(&n->h, dir, n->owner, sizeof(n->owner));
	return 0;
}

int
scan_names_load(struct spool *sp, const char *dir, struct scan_names *out)
{
	struct stat st;

	memset(out, 0, sizeof(*out));
	int rc = spool_read(sp, dir, "cyrus.header", HEADER_MAX_FILE, &out->file, &st);
	if (rc != 0)
		return rc;
	out->mtime = ns_of(&st);
	return decode_names(out, dir);
}

int
scan_names_check(const struct scan_names *n, const struct index_header *h,
	const struct mbox_state *known, uint64_t since, struct mbox_fault *fault)
{
	uint32_t crc = hash_crc32(0, n->file.data, n->file.len);

	if (h->minor_version < 12 || crc == h->header_file_crc)
		return 0;
	if (known != NULL &&
		sum_eq(known->sum.names, sum_of_names(n->file.data, n->file.len)))
		return 0;
	if (n->mtime >= since && (known == NULL || known->uniqueid[0] == '\0' ||
					 strcmp(known->uniqueid, n->h.uniqueid) == 0))
		return 0;
	return scan_fault(fault, ERR_BUSY, 0, "header-file-crc",
		"cyrus.header has CRC %08" PRIx32 ", the index says %08" PRIx32
		"; change a right of the mailbox (setacl)",
		crc, h->header_file_crc);
}

int
scan_names_of(struct spool *sp, const char *dir, enum scan_rule rule,
	const struct ixfile *ix, const struct mbox_state *known, struct scan_names *out,
	struct mbox_fault *fault)
{
	int rc = scan_names_load(sp, dir, out);

	if (rule == SCAN_LENIENT)
		return 0;
	if (rc != 0)
		return scan_fault(fault, rc == ERR_NOTFOUND ? ERR_MANGLED : rc, 0,
			"header-file",
			"cyrus.header cannot be read: %s; reconstruct the mailbox",
			err_text(rc));
	uint64_t since = known != NULL ? known->index_mtime : ns_of(&ix->st);
	return scan_names_check(out, &ix->h, known, since, fault);
}

int
scan_names_from(const void *p, size_t n, const char *dir, struct scan_names *out)
{
	memset(out, 0, sizeof(*out));
	buf_put(&out->file, p, n);
	int rc = buf_ok(&out->file);
	return rc != 0 ? rc : decode_names(out, dir);
}

void
scan_names_close(struct scan_names *n)
{
	if (n->decoded)
		header_fini(&n->h);
	n->decoded = false;
	buf_fini(&n->file);
}

/* ---- tally ---- */

bool
scan_crc_annot(uint32_t minor, const struct index_record *r,
	const struct scan_names *names, const struct scan_annots *annots,
	uint32_t *crc_out)
{
	bool known = true;
	size_t n;

	*crc_out = 0;
	if (r->flags & INDEX_FLAG_EXPUNGED)
		return true;
	*crc_out = index_crc_virtual(minor, r);
	const struct db_annot *a = scan_annots_of(annots, r->uid, &n);
	for (size_t i = 0; i < n; i++) {
		const char *user = a[i].userid;
		if (a[i].value_len == 0 || (a[i].flags & 1) != 0)
			continue;
		if (strcmp(user, OWNER_TOKEN) == 0) {
			user = names->owner;
			if (user[0] == '\0')
				known = false;
		}
		*crc_out ^= index_crc_annot(
			r->uid, a[i].entry, user, a[i].value, a[i].value_len);
	}
	return known;
}

void
scan_tally_add(struct scan_tally *t, uint32_t minor, const struct index_record *r,
	const struct scan_names *names, const struct scan_annots *annots)
{
	uint32_t crc;

	if (t->last_uid < r->uid)
		t->last_uid = r->uid;
	if (t->highestmodseq < r->modseq)
		t->highestmodseq = r->modseq;
	if (r->flags & INDEX_FLAG_EXPUNGED) {
		if ((r->flags & INDEX_FLAG_UNLINKED) == 0 &&
			(t->first_expunged == 0 || r->last_updated < t->first_expunged))
			t->first_expunged = r->last_updated;
		return;
	}
	t->exists++;
	t->deleted += (r->flags & INDEX_FLAG_DELETED) != 0;
	t->answered += (r->flags & INDEX_FLAG_ANSWERED) != 0;
	t->flagged += (r->flags & INDEX_FLAG_FLAGGED) != 0;
	t->unseen += (r->flags & INDEX_FLAG_SEEN) == 0;
	t->quota_used += r->size;
	t->basic ^= index_crc_basic(r, (const char *const *)names->h.flags);
	if (!scan_crc_annot(minor, r, names, annots, &crc))
		t->annot_unknown = true;
	t->annot ^= crc;
}

const char *
scan_tally_check(const struct scan_tally *t, const struct index_header *h)
{
	/* Before 12 the header has no exists: its record count stands for it. */
	if ((h->minor_version >= 12 && t->exists != h->exists) ||
		t->deleted != h->deleted || t->answered != h->answered ||
		t->flagged != h->flagged || t->quota_used != h->quota_mailbox_used ||
		(h->minor_version >= 14 && t->unseen != h->unseen))
		return "counts";
	if (h->sync_basic != 0 && t->basic != h->sync_basic)
		return "sync-basic";
	/* 2.5 to 3.1 started the annotation sum at 0. */
	if (h->sync_annot != 0 && !t->annot_unknown && t->annot != h->sync_annot &&
		(t->annot ^ INDEX_CRC_ANNOT_START) != h->sync_annot)
		return "sync-annot";
	return NULL;
}

/* ---- records ---- */

int
scan_record_check(const struct index_record *r, uint32_t uid_before,
	const struct index_header *h, struct mbox_fault *fault)
{
	static const uint8_t zero[SHA1_LEN];

	if (r->uid <= uid_before)
		return scan_fault(fault, ERR_MANGLED, r->uid, "uid-order",
			"UID %" PRIu32 " follows %" PRIu32 "; reconstruct the mailbox",
			r->uid, uid_before);
	if (r->uid > h->last_uid)
		return scan_fault(fault, ERR_MANGLED, r->uid, "last-uid",
			"UID %" PRIu32 " is above last_uid %" PRIu32
			"; reconstruct the mailbox",
			r->uid, h->last_uid);
	if ((r->flags & INDEX_FLAG_UNLINKED) && !(r->flags & INDEX_FLAG_EXPUNGED))
		return scan_fault(fault, ERR_MANGLED, r->uid, "flags",
			"unlinked but not expunged; reconstruct the mailbox");
	if (memcmp(r->guid, zero, SHA1_LEN) == 0)
		return scan_fault(fault, ERR_MANGLED, r->uid, "guid",
			"the record has no GUID; reconstruct -G the mailbox");
	return 0;
}

/* Not by printf, which takes as long as a small system call: a first synchronisation asks for each
 * message's name on every step of its way. */
const char *
scan_body_name(uint32_t uid, char out[SCAN_BODY_NAME])
{
	char *end = out + SCAN_BODY_NAME, *at = end;

	*--at = '\0';
	*--at = '.';
	do
		*--at = (char)('0' + uid % 10);
	while ((uid /= 10) != 0);
	return memmove(out, at, (size_t)(end - at));
}

int
scan_body_check(struct spool *sp, const char *dir, const struct index_record *r,
	struct mbox_fault *fault)
{
	int at, rc = spool_file(sp, dir, NULL, O_PATH | O_DIRECTORY, 0, &at);

	if (rc == ERR_NOTFOUND)
		return scan_fault(fault, ERR_BODY, r->uid, "body",
			"its folder is missing; restore it or reconstruct the mailbox");
	if (rc == 0) {
		rc = scan_body_check_at(at, r, NULL, fault);
		close(at);
	}
	return rc;
}

int
scan_body_check_at(int at, const struct index_record *r, struct stat *st_out,
	struct mbox_fault *fault)
{
	char name[SCAN_BODY_NAME];
	struct stat st;
	int rc = spool_stat_at(at, scan_body_name(r->uid, name), &st);

	if (rc == ERR_NOTFOUND)
		return scan_fault(fault, ERR_BODY, r->uid, "body",
			"%s is missing; restore it or reconstruct the mailbox", name);
	if (rc != 0)
		return rc;
	if (!S_ISREG(st.st_mode) || st.st_size == 0 || (uint64_t)st.st_size != r->size)
		return scan_fault(fault, ERR_BODY, r->uid, "body",
			"%s has %lld bytes, its record says %" PRIu64
			"; restore it or reconstruct the mailbox",
			name, (long long)st.st_size, r->size);
	if (st_out != NULL)
		*st_out = st;
	return 0;
}

/* ---- owner ---- */

int
scan_owner(struct spool *sp, const char *dir, const struct stat *index_st,
	struct change_owner *out)
{
	struct stat st;
	int rc = spool_stat(sp, dir, NULL, &st);

	if (rc != 0)
		return rc;
	out->uid = index_st->st_uid;
	out->gid = index_st->st_gid;
	out->dir_mode = st.st_mode & 07777;
	out->index_mode = index_st->st_mode & 07777;
	/* Index, header and messages are 0666, the others 0644, all less the umask (F29). */
	out->message_mode = out->index_mode;
	out->cache_mode = out->annot_mode = out->index_mode & 0644;
	if (spool_stat(sp, dir, "cyrus.cache", &st) == 0)
		out->cache_mode = st.st_mode & 07777;
	if (spool_stat(sp, dir, "cyrus.annotations", &st) == 0)
		out->annot_mode = st.st_mode & 07777;
	return 0;
}

void
scan_stamp(const struct stat *st, struct mbox_state *state)
{
	state->index_mtime = ns_of(st);
	state->index_size = (uint64_t)st->st_size;
	state->index_ino = st->st_ino;
}

/* ---- the whole ---- */

static uint8_t *
record_in(struct scan *s, uint32_t i)
{
	const struct index_header *h = &s->ix.h;

	return s->ix.mem.data + h->start_offset + (size_t)i * h->record_size;
}

/* Lenient: records that cannot be read are taken out of the copy in memory, so that positions
 * and bisection hold for the rest. */
static int
scan_records(struct scan *s, enum scan_rule rule, struct mbox_fault *fault)
{
	struct index_header *h = &s->ix.h;
	struct index_record r;
	uint32_t before = 0, good = 0;

	for (uint32_t i = 0; i < h->num_records; i++) {
		int rc = ixfile_record(&s->ix, i, &r);
		if (rc != 0)
			rc = scan_fault(fault, rc, r.uid, "record-crc",
				"record %" PRIu32
				" is damaged: %s; reconstruct the mailbox",
				i + 1, err_text(rc));
		else if (rule == SCAN_STRICT)
			rc = scan_record_check(&r, before, h, fault);
		else if (r.uid <= before)
			rc = ERR_MANGLED;
		if (rc != 0 && rule == SCAN_LENIENT) {
			s->holes++;
			continue;
		}
		if (rc != 0)
			return rc;
		if (good != i)
			memmove(record_in(s, good), record_in(s, i), h->record_size);
		good++;
		before = r.uid;
		sum_add(&s->sum.records, sum_of_record(&r));
		scan_tally_add(&s->tally, h->minor_version, &r, &s->names, &s->annots);
	}
	h->num_records = good;
	return 0;
}

int
scan_open(struct spool *sp, const char *dir, enum scan_rule rule,
	const struct mbox_state *known, struct scan *out, struct mbox_fault *fault)
{
	int rc;

	memset(out, 0, sizeof(*out));
	rc = ixfile_open(sp, dir, true, &out->ix);
	if (rc != 0) {
		if (rc != ERR_NOTFOUND)
			scan_fault(fault, rc, 0, "index-header",
				"cyrus.index cannot be read: %s; reconstruct the "
				"mailbox",
				err_text(rc));
		return rc;
	}
	const struct index_header *h = &out->ix.h;
	rc = scan_names_of(sp, dir, rule, &out->ix, known, &out->names, fault);
	if (rc != 0)
		goto fail;
	rc = scan_annots_load(sp, dir, &out->annots);
	if (rc != 0 && rc != ERR_BUSY)
		scan_fault(fault, rc, 0, "annotations",
			"cyrus.annotations cannot be read: %s; restore the file",
			err_text(rc));
	if (rc != 0 && rule == SCAN_LENIENT && rc != ERR_NOMEM)
		rc = 0;
	if (rc == 0)
		rc = scan_owner(sp, dir, &out->ix.st, &out->owner);
	if (rc != 0)
		goto fail;
	out->tally.annot = INDEX_CRC_ANNOT_START;
	rc = scan_records(out, rule, fault);
	if (rc != 0)
		goto fail;
	out->sum.header = sum_of_header(h);
	out->sum.names = sum_of_names(out->names.file.data, out->names.file.len);
	out->sum.annots = scan_annots_sum(out->annots.list, out->annots.n);
	return 0;
fail:
	scan_close(out);
	return rc;
}

void
scan_close(struct scan *s)
{
	ixfile_close(&s->ix);
	scan_names_close(&s->names);
	scan_annots_close(&s->annots);
}

void
scan_state(const struct scan *s, struct mbox_state *out)
{
	memset(out, 0, sizeof(*out));
	out->header = s->ix.h;
	out->sum = s->sum;
	out->owner = s->owner;
	if (s->names.decoded)
		snprintf(out->uniqueid, sizeof(out->uniqueid), "%s",
			s->names.h.uniqueid);
	scan_stamp(&s->ix.st, out);
}
