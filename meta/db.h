/*
 * db.h - Cyrus's key-value files as pairs: twoskip, flat, quotalegacy (F6), and the annotation
 * records inside (F5.2).
 *
 * Readers work on bytes in memory, so tests and fuzzers need no disk. A twoskip file is written
 * only whole and new (sorted pairs -> bytes), never in place.
 */
#ifndef META_DB_H
#define META_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

/* Return non-zero to stop; the walk returns that. */
typedef int
db_pair_fn(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen);

/* ERR_BUSY if a transaction is under way (DIRTY, or size beyond current_size): ask again later.
 * ERR_VERSION for another format, ERR_MANGLED / ERR_CHECKSUM for damage. Pairs come in order. */
int db_twoskip_walk(const void *p, size_t n, db_pair_fn *fn, void *arg);
/* All invariants of F9.23, each failure named through say. Returns the number of failures. */
int db_twoskip_check(const void *p, size_t n,
	void (*say)(void *arg, const char *check, const char *text), void *arg);
/* Keys and values come unescaped. ERR_MANGLED. */
int db_flat_walk(const void *p, size_t n, db_pair_fn *fn, void *arg);
/* A quota file: resource (S, M, AS, NF, MODSEQ) and its amounts as text, used and limit. In the
 * form of 2.3 it is S with a line feed between the two. ERR_MANGLED. */
int db_quotalegacy_walk(const void *p, size_t n, db_pair_fn *fn, void *arg);

struct db_pair {
	const uint8_t *key;
	size_t klen;
	const uint8_t *val;
	size_t vlen;
};
/* A complete twoskip file of these pairs (strictly ascending keys, none empty), as Cyrus would
 * open it, into an empty buffer. ERR_USAGE, ERR_LIMIT. */
int db_twoskip_build(
	const struct db_pair *pairs, size_t n, uint64_t generation, struct buf *out);

/* One per-message annotation of cyrus.annotations. Pointers into the input. */
struct db_annot {
	uint32_t uid;
	const char *entry; /* NUL-terminated inside the key */
	const char *userid; /* "" shared; "[.OwNeR.]" the owner */
	const uint8_t *value;
	size_t value_len;
	uint64_t modseq;
	uint8_t flags; /* bit 0: tombstone */
};
/* Decodes a pair of cyrus.annotations. ERR_MANGLED. */
int db_annot_decode(const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen,
	struct db_annot *out);
/* The same of a pair of annotations.db: uid is 0, and the mailbox's unique id, "" for the server
 * as a whole, is in *box_out. */
int db_annot_decode_box(const uint8_t *key, size_t klen, const uint8_t *val,
	size_t vlen, struct db_annot *out, const char **box_out);
/* The pair's bytes for an annotation, appended; ask the buffers whether they failed. */
void
db_annot_encode(const struct db_annot *a, struct buf *key_out, struct buf *val_out);

#endif
