/*
 * sum.h - the sum of a mailbox: order-free, updated record by record.
 *
 * A sum is an addition modulo 2^128 of truncated SHA-256 over tagged encodings that do not
 * depend on the index version. It is kept in four parts so that each can be renewed alone.
 *
 *   records  each record, EXPUNGED and UNLINKED ones included. In: uid, internaldate, sentdate,
 *            size, header_size, gmtime, last_updated, flags without NEEDS_CLEANUP, user_flags,
 *            savedate, guid, modseq, cid, createdmodseq, basecid. Out: cache fields,
 *            content_lines.
 *   annots   each pair of cyrus.annotations, tombstones included: uid, entry, userid, value,
 *            modseq, flags.
 *   header   last_appenddate, last_uid, quota_mailbox_used, pop3_last_login, uidvalidity,
 *            deleted, answered, flagged, unseen, exists, options & INDEX_OPT_REPLICATED,
 *            highestmodseq, deletedmodseq, last_repack_time, recentuid, recenttime,
 *            pop3_show_after, quota_annot_used, createdmodseq, changes_epoch,
 *            quota_deleted_used, quota_expunged_used. Out: generation, format, version, sizes,
 *            record count, leaked_cache_records, first_expunged, NEEDS_*, CRCs.
 *   names    the bytes of cyrus.header.
 */
#ifndef META_SUM_H
#define META_SUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUM_LEN 16

struct sum {
	uint64_t hi, lo;
};

struct index_header;
struct index_record;
struct db_annot;

struct sum sum_of_record(const struct index_record *r);
struct sum sum_of_annot(const struct db_annot *a);
struct sum sum_of_header(const struct index_header *h);
struct sum sum_of_names(const void *p, size_t n);

void sum_add(struct sum *s, struct sum x);
void sum_sub(struct sum *s, struct sum x);
bool sum_eq(struct sum a, struct sum b);

void sum_put(struct sum s, uint8_t out[SUM_LEN]); /* big-endian */
struct sum sum_get(const uint8_t in[SUM_LEN]);

struct mbox_sum {
	struct sum records, annots, header, names;
};
struct sum mbox_sum_total(const struct mbox_sum *s);

#endif
