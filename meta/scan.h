/*
 * scan.h - one mailbox read as a whole: its records, names, annotations, owner, and what follows
 * from them (sums, counters, Cyrus's own sums). For what compares or changes a whole one: delta, mbox,
 * apply, repair.
 *
 * Ownership  scan_close gives everything back; a struct of zeros may be closed.
 */
#ifndef META_SCAN_H
#define META_SCAN_H

#include "meta/db.h"
#include "meta/header.h"
#include "meta/ixfile.h"
#include "meta/mbox.h"

/* Says why, if there is somebody to tell. Returns rc. */
int scan_fault(struct mbox_fault *fault, int rc, uint32_t uid, const char *check,
	const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Which rules hold: as Cyrus left it; or after a crash in replay, where a record that cannot be
 * read is counted as missing and the names may be newer than the header. */
enum scan_rule { SCAN_STRICT, SCAN_LENIENT };

/* ---- cyrus.header ---- */

struct scan_names {
	struct buf file;
	struct header h;
	bool decoded;
	uint64_t mtime; /* of the file, if it came from one */
	char owner[256]; /* user name for the owner token in annotations; "" unknown */
};
/* ERR_NOTFOUND, ERR_MANGLED. file is filled in when it could be read. */
int scan_names_load(struct spool *sp, const char *dir, struct scan_names *out);
/* The same from bytes (copied), for the folder dir. */
int scan_names_from(const void *p, size_t n, const char *dir, struct scan_names *out);
/* Those of the mailbox whose index this is, loaded and (strict) checked. */
int scan_names_of(struct spool *sp, const char *dir, enum scan_rule rule,
	const struct ixfile *ix, const struct mbox_state *known, struct scan_names *out,
	struct mbox_fault *fault);
void scan_names_close(struct scan_names *n);
/* Are these the names to go by? Yes if the index header has their CRC, if they are what is known
 * of the mailbox already, or if they were put in place since that (since is its index's time):
 * Cyrus was killed before it wrote the index header, and every later reader, Cyrus too, goes by
 * them. What changed without getting any younger is damage: ERR_BUSY and the fault. */
int scan_names_check(const struct scan_names *n, const struct index_header *h,
	const struct mbox_state *known, uint64_t since, struct mbox_fault *fault);

/* ---- cyrus.annotations ---- */

struct scan_annots {
	struct buf file; /* what list points into */
	struct db_annot *list; /* ascending UID, then entry, then user */
	size_t n, cap;
};
/* A missing or empty file has none. ERR_BUSY while Cyrus writes it. */
int scan_annots_load(struct spool *sp, const char *dir, struct scan_annots *out);
void scan_annots_close(struct scan_annots *a);
int scan_annots_add(struct scan_annots *a, const struct db_annot *x);
void scan_annots_sort(struct scan_annots *a);
/* Those of one UID. */
const struct db_annot *
scan_annots_of(const struct scan_annots *a, uint32_t uid, size_t *n_out);
struct sum scan_annots_sum(const struct db_annot *list, size_t n);
/* A file that holds exactly these. */
int scan_annots_build(const struct scan_annots *a, struct buf *out);

/* ---- what records add up to ---- */

struct scan_tally {
	uint32_t exists, deleted, answered, flagged, unseen;
	uint32_t last_uid;
	uint64_t quota_used, first_expunged, highestmodseq;
	uint32_t basic, annot;
	bool annot_unknown; /* an owner's annotation, and the owner's name is not known */
};
void scan_tally_add(struct scan_tally *t, uint32_t minor, const struct index_record *r,
	const struct scan_names *names, const struct scan_annots *annots);
/* NULL, or the name of the counter that the header has otherwise: "counts", "sync-basic",
 * "sync-annot". A sum of 0 in the header is unknown. */
const char *scan_tally_check(const struct scan_tally *t, const struct index_header *h);
/* One record's part of the annotation sum. False: unknown. */
bool scan_crc_annot(uint32_t minor, const struct index_record *r,
	const struct scan_names *names, const struct scan_annots *annots,
	uint32_t *crc_out);

/* ---- the whole ---- */

struct scan {
	struct ixfile ix; /* loaded */
	struct scan_names names;
	struct scan_annots annots;
	struct scan_tally tally;
	struct mbox_sum sum;
	struct change_owner owner;
	uint32_t holes; /* records that could not be read and are left out (lenient) */
};
/* known: what is known of the mailbox, for scan_names_check; NULL: nothing. */
int scan_open(struct spool *sp, const char *dir, enum scan_rule rule,
	const struct mbox_state *known, struct scan *out, struct mbox_fault *fault);
void scan_close(struct scan *s);
/* The state that the scan found. */
void scan_state(const struct scan *s, struct mbox_state *out);

/* Owner and modes of folder and files; what is not there yet as Cyrus would make it. */
int scan_owner(struct spool *sp, const char *dir, const struct stat *index_st,
	struct change_owner *out);
/* The invariants of one record by itself and after the one before it (uid 0: none). */
int scan_record_check(const struct index_record *r, uint32_t uid_before,
	const struct index_header *h, struct mbox_fault *fault);
/* Notes which index file this is. */
void scan_stamp(const struct stat *st, struct mbox_state *state);
/* "7." */
#define SCAN_BODY_NAME 16
const char *scan_body_name(uint32_t uid, char out[SCAN_BODY_NAME]);
/* The message of r is there, a regular file, not empty and of the right size. ERR_BODY. */
int scan_body_check(struct spool *sp, const char *dir, const struct index_record *r,
	struct mbox_fault *fault);
/* The same in an open folder. */
int scan_body_check_at(int at, const struct index_record *r, struct stat *st_out,
	struct mbox_fault *fault);

#endif
