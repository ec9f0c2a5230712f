/*
 * index.h - cyrus.index bytes <-> header and records, checksums included.
 *
 * Every minor version (10, 12 to 20) is one row of layout.c; nothing here switches on a version.
 * All times are nanoseconds since the epoch: versions up to 19 store whole seconds, 20 stores
 * nanoseconds (F2.1). A field that a version lacks decodes as 0.
 *
 * Threads  any; nothing is shared.
 * Errors   ERR_VERSION unknown or inconsistent version, ERR_MANGLED too short or impossible
 *          values, ERR_CHECKSUM.
 */
#ifndef META_INDEX_H
#define META_INDEX_H

#include "meta/base/hash.h"

#include <stddef.h>
#include <stdint.h>

#define INDEX_MAX_HEADER 192 /* the largest header and record of any version */
#define INDEX_MAX_RECORD 144
#define INDEX_USER_FLAGS 128

/* Header options (F2.3) and record flags (F2.4). */
#define INDEX_OPT_POP3_NEW_UIDL 0x1u
#define INDEX_OPT_SHAREDSEEN 0x4u
#define INDEX_OPT_DUPDELIVER 0x8u
#define INDEX_OPT_HAS_ALARMS 0x10u
#define INDEX_OPT_NEEDS_UNLINK 0x20000000u
#define INDEX_OPT_NEEDS_REPACK 0x40000000u
#define INDEX_OPT_DELETED 0x80000000u
#define INDEX_OPT_KNOWN 0xE000001Du
#define INDEX_OPT_REPLICATED 0x1Du

#define INDEX_FLAG_ANSWERED 0x1u
#define INDEX_FLAG_FLAGGED 0x2u
#define INDEX_FLAG_DELETED 0x4u
#define INDEX_FLAG_DRAFT 0x8u
#define INDEX_FLAG_SEEN 0x10u
#define INDEX_FLAG_SNOOZED 0x04000000u
#define INDEX_FLAG_SPLIT 0x08000000u
#define INDEX_FLAG_NEEDS_CLEANUP 0x10000000u
#define INDEX_FLAG_ARCHIVED 0x20000000u
#define INDEX_FLAG_UNLINKED 0x40000000u
#define INDEX_FLAG_EXPUNGED 0x80000000u
#define INDEX_FLAG_KNOWN 0xFC00001Fu

struct index_header {
	uint32_t generation_no;
	uint32_t format;
	uint32_t minor_version;
	uint32_t start_offset;
	uint32_t record_size;
	uint32_t num_records;
	uint64_t last_appenddate;
	uint32_t last_uid;
	uint64_t quota_mailbox_used;
	uint64_t pop3_last_login;
	uint32_t uidvalidity;
	uint32_t deleted;
	uint32_t answered;
	uint32_t flagged;
	uint32_t options;
	uint32_t leaked_cache_records;
	uint64_t highestmodseq;
	uint64_t deletedmodseq;
	uint32_t exists;
	uint64_t first_expunged;
	uint64_t last_repack_time;
	uint32_t header_file_crc;
	uint32_t sync_basic;
	uint32_t recentuid;
	uint64_t recenttime;
	uint64_t pop3_show_after;
	uint64_t quota_annot_used;
	uint32_t sync_annot;
	uint32_t unseen;
	uint64_t createdmodseq;
	uint64_t changes_epoch;
	uint64_t quota_deleted_used;
	uint64_t quota_expunged_used;
};

struct index_record {
	uint32_t uid;
	uint64_t internaldate;
	uint64_t sentdate;
	uint64_t size;
	uint32_t header_size;
	uint64_t gmtime;
	uint64_t cache_offset;
	uint64_t last_updated;
	uint32_t flags;
	uint32_t user_flags[INDEX_USER_FLAGS / 32];
	uint64_t savedate;
	uint32_t content_lines; /* version 10 only */
	uint32_t cache_version;
	uint8_t guid[SHA1_LEN];
	uint64_t modseq;
	uint64_t cid;
	uint64_t createdmodseq;
	uint64_t basecid;
	uint32_t cache_crc;
};

/* Header and record size of a version; 0 if it is unknown. */
size_t index_header_size(uint32_t minor);
size_t index_record_size(uint32_t minor);

/* Decodes and checks a header: version, sizes, format, CRC. n may be larger than the header. */
int index_header_decode(const void *p, size_t n, struct index_header *out);
/* Writes start_offset bytes, CRC included; the sizes are taken from the version. ERR_LIMIT if a
 * value does not fit its place in that version; what the version lacks is dropped. */
int index_header_encode(const struct index_header *h, uint8_t *out);

/* One record of index_record_size(minor) bytes, CRC checked (12 and later); ERR_MANGLED if the
 * UID is 0. On ERR_CHECKSUM out has the fields as they are, for a message about them. */
int index_record_decode(uint32_t minor, const void *p, struct index_record *out);
int index_record_encode(uint32_t minor, const struct index_record *r, uint8_t *out);

/* A whole index in memory (read or mapped by the caller, who keeps the bytes alive). */
struct index_view {
	const uint8_t *p;
	size_t n;
	struct index_header header;
};

/* Checks the header and that num_records fit. Records are checked when they are asked for. */
int index_view_open(struct index_view *v, const void *p, size_t n);
/* Record i (0-based, below header.num_records). */
int index_view_record(const struct index_view *v, uint32_t i, struct index_record *out);
/* Position of the record with that UID by bisection: ERR_NOTFOUND, and where it would be. */
int index_view_find(const struct index_view *v, uint32_t uid, uint32_t *i_out);

/* This record's part of Cyrus's own sync CRCs (F2.5); 0 for an expunged record. flag_names has
 * INDEX_USER_FLAGS entries, NULL where there is no flag. */
uint32_t index_crc_basic(const struct index_record *r, const char *const *flag_names);
/* The virtual annotations only; those of cyrus.annotations are index_crc_annot's. */
uint32_t index_crc_virtual(uint32_t minor, const struct index_record *r);
/* One annotation of a live message; owner is the real user name, never the owner token. */
uint32_t index_crc_annot(uint32_t uid, const char *entry, const char *userid,
	const void *value, size_t len);
#define INDEX_CRC_ANNOT_START 12345678u

/* Walks the fields that the version stores, for dump: name, value, and whether it is a time.
 * The GUID is not among them. */
typedef void index_field_fn(void *arg, const char *name, uint64_t value, int is_time);
void index_header_fields(const struct index_header *h, index_field_fn *fn, void *arg);
void index_record_fields(
	uint32_t minor, const struct index_record *r, index_field_fn *fn, void *arg);

#endif
