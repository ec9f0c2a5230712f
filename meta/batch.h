/*
 * batch.h - the changes of one commit, stated as results, with the mailbox's sum before and
 * after; bytes <-> batch. The same bytes lie in the journal, cross the link and wait in the
 * peer's inbox.
 *
 * The bytes: a version byte, flags, names, sums, then the changes. Numbers are varints; UIDs,
 * modseqs and times are stated as differences to the last one stated in the same batch, since
 * those of one commit lie close together. A field of a record or header is stated when its mask
 * bit is set, so a change of one flag in one message takes about 55 bytes beyond the names.
 *
 * A batch is about one mailbox (dir, uniqueid), or about one path outside any mailbox (then the
 * sums are unused). Applying it twice is the same as once.
 *
 * A decoded batch points into the bytes it came from where it says "in the bytes"; the caller
 * keeps those alive. A batch that is being built owns what it is given.
 */
#ifndef META_BATCH_H
#define META_BATCH_H

#include "meta/base/buf.h"
#include "meta/index.h"
#include "meta/sum.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BATCH_MAX \
	(64u << 20) /* bytes of one batch; one of too many records is cut, see mbox.h */
#define BATCH_MAX_PATH 4096
#define BATCH_MAX_CHANGES (1u << 20)

/* What a batch says beyond its changes. */
#define BATCH_WHOLE \
	0x1u /* names every record: a UID not named does not exist afterwards */
#define BATCH_DERIVED \
	0x2u /* made without the state before it: there is no sum before */
#define BATCH_CREATE 0x4u /* the mailbox is new in this directory */
#define BATCH_REMOVE 0x8u /* the mailbox in this directory is gone; no other change */
#define BATCH_PARTIAL \
	0x10u /* a cut of a larger whole: the sum after is that of the last cut */

/* The kinds of change. One row each in batch.c: name, fields. Numbers are for ever. */
enum change_kind {
	CHANGE_RECORD =
		1, /* a record, new or changed; mask says which fields are stated */
	CHANGE_PURGE =
		2, /* a record that a repack dropped; in a DERIVED batch the GUID may
			   * be zero: whatever is there */
	CHANGE_HEADER = 3, /* fields of the index header */
	CHANGE_NAMES = 4, /* cyrus.header as a whole */
	CHANGE_ANNOTS =
		5, /* all annotations of one message, replacing what it had. UID 0 with
			    * none: no message has any but those named in this batch */
	CHANGE_OWNER = 6, /* owner and modes for the mailbox's folder and files */
	CHANGE_FILE =
		7, /* a regular file outside any mailbox: attributes, content by SHA-1 */
	CHANGE_DIR = 8, /* a folder: attributes */
	CHANGE_SYMLINK = 9,
	CHANGE_NODE = 10, /* fifo, socket or device */
	CHANGE_DELETE = 11, /* a path that is gone (file, or empty folder) */
	CHANGE_MOVE =
		12, /* a path that has another name now (a folder with all below it) */
	CHANGE_SWAP = 13, /* two paths that changed places, each with all below it */
	CHANGE_BODY =
		14 /* owner and mode of a message that this batch appends, if they are not
			  * those of the mailbox's other messages */
};

/* Which fields of a record or header a change states: bit i = row i of the tables in change.c,
 * whose order is part of the format. */
#define CHANGE_ALL UINT64_MAX
/* Rows that code needs by name. */
#define CHANGE_RECORD_MODSEQ (1u << 0)
#define CHANGE_RECORD_FLAGS (1u << 2)
#define CHANGE_RECORD_GUID (1u << 7)
#define CHANGE_RECORD_CACHE (3u << 17) /* cache_version, cache_crc: only in an append */

struct change_body {
	uint32_t uid; /* of the message */
	uint32_t owner, group, mode; /* of its file; 07777 */
};

struct change_record {
	bool append; /* the UID is new: everything is stated, body included */
	uint64_t
		mask; /* fields stated (update). An update that states flags with EXPUNGED or
			* UNLINKED states the GUID too, or it is refused */
	struct index_record r; /* cache_offset is never carried; uid always is */
	const uint8_t
		*cache; /* append: the cache record, or NULL if it could not be read */
	size_t cache_len;
	bool elsewhere; /* append of an ARCHIVED record whose message is on another partition:
			 * none travels */
	struct change_body
		file; /* append that is being made: how its file is; uid 0: none */
	/* append: where a link of the same body was already committed, or dir NULL */
	const char *ref_dir;
	uint32_t ref_uid;
};

struct change_purge {
	uint32_t uid;
	uint8_t guid[SHA1_LEN];
};

struct change_header {
	uint64_t
		mask; /* minor_version and NEEDS_* are carried, counts of the file not */
	struct index_header h;
};

struct change_bytes {
	const uint8_t *p;
	size_t n;
};

struct change_annot {
	const char *entry, *userid;
	const uint8_t *value;
	size_t value_len;
	uint64_t modseq;
	uint8_t flags;
};

struct change_annots {
	uint32_t uid;
	struct change_annot *list;
	size_t n;
};

struct change_owner {
	uint32_t uid, gid;
	uint32_t dir_mode, index_mode, cache_mode, annot_mode, message_mode; /* 07777 */
};

struct change_path {
	const char *path;
	const char *target; /* SYMLINK: contents; MOVE: the new path; SWAP: the other */
	uint32_t uid, gid, mode; /* mode with its file type */
	uint64_t mtime; /* nanoseconds */
	uint64_t rdev; /* NODE; SWAP: a number that no other swap has */
	uint64_t size; /* FILE */
	uint8_t sha1[SHA1_LEN]; /* FILE: of its content, which travels as a body */
};

struct change {
	enum change_kind kind;
	union {
		struct change_record record;
		struct change_purge purge;
		struct change_header header;
		struct change_bytes names;
		struct change_annots annots;
		struct change_owner owner;
		struct change_body body;
		struct change_path path;
	} u;
};

struct batch {
	unsigned flags;
	const char *dir; /* relative to the spool; "" for a path change */
	const char *uniqueid; /* "" for a path change */
	const char *
		from_dir; /* another directory with the same uniqueid to link bodies from,
			       * or NULL */
	struct sum before, after;
	uint32_t sync_basic,
		sync_annot; /* Cyrus's own sums after, as the index header has them;
					  * 0: unknown, or as before */
	struct change *changes;
	size_t n, cap;
	struct batch_block *blocks; /* memory that batch_keep handed out */
};

void batch_init(struct batch *b);
void batch_fini(struct batch *b);
/* A zeroed change at the end, or NULL when memory is short. */
struct change *batch_add(struct batch *b, enum change_kind kind);
/* n bytes that live as long as the batch, zeroed and aligned for any object. */
void *batch_room(struct batch *b, size_t n);
/* A copy of n bytes (NUL-terminated behind) that lives as long as the batch; NULL on failure. */
const void *batch_keep(struct batch *b, const void *p, size_t n);

/* ---- change.c: the tables of fields ---- */

/* The fields by which two headers or records differ, as a mask. Cache fields of
 * records are not compared: they are local (F7.6). */
uint64_t change_header_diff(const struct index_header *a, const struct index_header *b);
uint64_t change_record_diff(const struct index_record *a, const struct index_record *b);
/* What an append states: the GUID and all that is not zero; the decoder begins with zeros. */
uint64_t change_append_mask(const struct index_record *r);
/* Copies the stated fields of one onto the other. */
void change_header_merge(
	struct index_header *to, const struct index_header *from, uint64_t mask);
void change_record_merge(
	struct index_record *to, const struct index_record *from, uint64_t mask);

/* Bytes of the stated fields. base carries the differences from one change to the next and
 * starts zeroed on both sides. */
struct change_base {
	uint64_t uid, modseq, seconds;
};
void change_record_put(struct buf *out, struct change_base *base,
	const struct index_record *r, uint64_t mask);
void change_header_put(struct buf *out, struct change_base *base,
	const struct index_header *h, uint64_t mask);
struct rd;
/* Fails the cursor on a mask bit without a row or a value that does not fit its field. */
uint64_t
change_record_get(struct rd *in, struct change_base *base, struct index_record *r);
uint64_t
change_header_get(struct rd *in, struct change_base *base, struct index_header *h);
/* "name=value" of the stated fields, space before each. */
void change_record_print(const struct index_record *r, uint64_t mask, struct buf *out);
void change_header_print(const struct index_header *h, uint64_t mask, struct buf *out);
/* A time as the tables write it, for other changes. */
void change_time_put(struct buf *out, struct change_base *base, uint64_t ns);
uint64_t change_time_get(struct rd *in, struct change_base *base);

/* ---- batch.c: the bytes ---- */

/* Errors: ERR_LIMIT when larger than BATCH_MAX, ERR_NOMEM. */
int batch_encode(const struct batch *b, struct buf *out);
/* Strict: unknown kinds or versions are ERR_VERSION, left-over bytes ERR_MANGLED. */
int batch_decode(const void *p, size_t n, struct batch *out);
/* Only dir, uniqueid and flags, without the changes. */
int batch_peek(const void *p, size_t n, struct batch *out);
/* Does it state a sum before, a sum after? */
bool batch_has_before(const struct batch *b);
bool batch_has_after(const struct batch *b);
/* True if it expunges, unlinks or purges a record, or removes a mailbox or path (design 7). A record
 * that a derived batch states counts if it is unlinked. */
bool batch_removes(const struct batch *b);
/* One line of text per change, for dump and for the log. */
void batch_print(const struct batch *b, struct buf *out);
/* Parts of that: one change, without a newline; the flags in words, a space before each. */
void batch_print_change(const struct change *c, struct buf *out);
void batch_print_flags(const struct batch *b, struct buf *out);

#endif
