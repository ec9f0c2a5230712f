/*
 * rec.h - structs described by field tables: struct <-> bytes, struct -> text and JSON.
 *
 * A table lists the fields of a struct once; encoder, decoder, size and printer all walk it, so
 * they cannot drift apart. Bytes are packed, in table order, with no padding or tags:
 *
 *   REC_UINT   varint (cur.h), 0..limit        the member is uint8_t .. uint64_t, or bool
 *   REC_FIXED  the bytes                        the member is uint8_t[n]
 *   REC_STR    the bytes, then a NUL            the member is const char *; NULL is sent as ""
 *   REC_BLOB   varint length, the bytes         the member is struct rec_blob
 *   REC_LIST   varint count, the items          the member is struct rec_list of sub-structs
 *
 * Owns     nothing. A decoded string or blob points into the input; a decoded list lies in the
 *          caller's struct rec_mem. Both must outlive the struct.
 * Threads  any; tables are const.
 * Errors   encoding: ERR_LIMIT when a value is over its row's limit (the buffer is then as it
 *          was), ERR_NOMEM. Decoding: ERR_MANGLED for bytes that are not such a struct, or over
 *          a limit; ERR_NOMEM. A length is compared with the limit and with what is left of the
 *          input before memory is asked for.
 * Versions a row with `since` is left out of (and is zero after) an exchange of a lower version.
 */
#ifndef META_BASE_REC_H
#define META_BASE_REC_H

#include "meta/base/buf.h"
#include "meta/base/cur.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rec_kind {
	REC_KIND_END,
	REC_KIND_UINT,
	REC_KIND_FIXED,
	REC_KIND_STR,
	REC_KIND_BLOB,
	REC_KIND_LIST
};

struct rec_blob {
	const uint8_t *p;
	size_t n;
};

/* Items lie side by side, each as big as the row's sub_size. */
struct rec_list {
	const void *items;
	size_t n;
};

struct rec_field {
	const char *name;
	enum rec_kind kind;
	size_t offset;
	size_t size; /* of the member in bytes */
	uint64_t limit; /* highest value, length without NUL, or count */
	const struct rec_field *sub; /* REC_LIST: rows of an item */
	size_t sub_size;
	unsigned since; /* lowest version that has the field; 0: all */
};

/* clang-format off */
#define REC_UINT(type, member, max) \
	{ #member, REC_KIND_UINT, offsetof(type, member), sizeof(((type *)0)->member), \
		(max), NULL, 0, 0 }
#define REC_U64(type, member) REC_UINT(type, member, UINT64_MAX)
#define REC_U32(type, member) REC_UINT(type, member, UINT32_MAX)
#define REC_U8(type, member) REC_UINT(type, member, UINT8_MAX)
#define REC_BOOL(type, member) REC_UINT(type, member, 1)
#define REC_FIXED(type, member) \
	{ #member, REC_KIND_FIXED, offsetof(type, member), sizeof(((type *)0)->member), \
		0, NULL, 0, 0 }
#define REC_STR(type, member, max) \
	{ #member, REC_KIND_STR, offsetof(type, member), sizeof(((type *)0)->member), \
		(max), NULL, 0, 0 }
#define REC_BLOB(type, member, max) \
	{ #member, REC_KIND_BLOB, offsetof(type, member), sizeof(((type *)0)->member), \
		(max), NULL, 0, 0 }
#define REC_LIST(type, member, max, item_fields, item_type) \
	{ #member, REC_KIND_LIST, offsetof(type, member), sizeof(((type *)0)->member), \
		(max), (item_fields), sizeof(item_type), 0 }
#define REC_END { NULL, REC_KIND_END, 0, 0, 0, NULL, 0, 0 }
/* clang-format on */

/* Where decoded lists live: chunks, given back together. Zeroed is empty and ready; max 0 means
 * REC_MEM_DEFAULT. */
#define REC_MEM_DEFAULT ((size_t)256 << 20)
struct rec_mem {
	struct rec_chunk *chunks;
	size_t used; /* bytes handed out since the last fini */
	size_t max;
};
void rec_mem_fini(struct rec_mem *mem);

/* Appends the struct at obj to out. */
int rec_encode(const struct rec_field *fields, const void *obj, struct buf *out);
int rec_encode_at(const struct rec_field *fields, unsigned version, const void *obj,
	struct buf *out);

/* Reads one struct from the cursor, which then stands behind it; whether anything may follow is
 * the caller's to say (rd_done). obj_out is zeroed first. */
int rec_decode(const struct rec_field *fields, struct rd *in, struct rec_mem *mem,
	void *obj_out);
int rec_decode_at(const struct rec_field *fields, unsigned version, struct rd *in,
	struct rec_mem *mem, void *obj_out);

/* Bytes that rec_encode would append; values over a limit are counted as they are. */
size_t rec_size(const struct rec_field *fields, const void *obj);

bool rec_equal(const struct rec_field *fields, const void *a, const void *b);

/* "name=value name=value"; bytes as hex, strings quoted with \xHH for what is not printable
 * ASCII, lists as [a=1 b=2; a=3 b=4]. */
void rec_print(const struct rec_field *fields, const void *obj, struct buf *out);
/* One JSON object; bytes as hex strings, bytes of strings that are not UTF-8 as U+00HH. */
void rec_json(const struct rec_field *fields, const void *obj, struct buf *out);

#endif
