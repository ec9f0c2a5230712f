/*
 * cur.h - sticky cursors over bytes, both endians.
 *
 * Reads give 0 (or NULL) once the cursor has failed; rd_done fails on overrun and on left-over
 * bytes. Nothing is copied: rd_bytes points into the input. Writers append to a struct buf,
 * which has the same stickiness.
 *
 * A varint is LEB128: seven bits a byte, low bits first, high bit set on all but the last; at
 * most ten bytes, and never longer than needed.
 */
#ifndef META_BASE_CUR_H
#define META_BASE_CUR_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct rd {
	const uint8_t *p, *end;
	bool failed;
};

static inline struct rd
rd_over(const void *p, size_t n)
{
	return (struct rd){ p, (const uint8_t *)p + n, false };
}

static inline size_t
rd_left(const struct rd *r)
{
	return r->failed ? 0 : (size_t)(r->end - r->p);
}

/* n bytes of the input, or NULL. */
static inline const uint8_t *
rd_bytes(struct rd *r, size_t n)
{
	const uint8_t *at = r->p;

	if (r->failed || n > (size_t)(r->end - r->p)) {
		r->failed = true;
		return NULL;
	}
	r->p += n;
	return at;
}

static inline uint64_t
rd_be(struct rd *r, size_t n)
{
	const uint8_t *at = rd_bytes(r, n);
	uint64_t v = 0;

	for (size_t i = 0; at != NULL && i < n; i++)
		v = v << 8 | at[i];
	return v;
}

static inline uint8_t
rd_u8(struct rd *r)
{
	return (uint8_t)rd_be(r, 1);
}

static inline uint32_t
rd_be32(struct rd *r)
{
	return (uint32_t)rd_be(r, 4);
}

static inline uint64_t
rd_be64(struct rd *r)
{
	return rd_be(r, 8);
}

static inline uint64_t
rd_varint(struct rd *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t b = rd_u8(r);
		if (r->failed)
			return 0;
		if (shift == 63 && b > 1)
			break;
		v |= (uint64_t)(b & 0x7f) << shift;
		if ((b & 0x80) == 0) {
			if (b == 0 && shift > 0)
				break; /* longer than needed */
			return v;
		}
	}
	r->failed = true;
	return 0;
}

/* A varint that must not exceed max. */
static inline uint64_t
rd_varint_max(struct rd *r, uint64_t max)
{
	uint64_t v = rd_varint(r);

	if (v > max) {
		r->failed = true;
		return 0;
	}
	return v;
}

static inline bool
rd_ok(const struct rd *r)
{
	return !r->failed;
}

/* True if all reads succeeded and nothing is left over. */
static inline bool
rd_done(const struct rd *r)
{
	return !r->failed && r->p == r->end;
}

static inline void
wr_be(struct buf *b, uint64_t v, size_t n)
{
	uint8_t tmp[8];

	for (size_t i = 0; i < n; i++)
		tmp[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
	buf_put(b, tmp, n);
}

static inline void
wr_u8(struct buf *b, uint8_t v)
{
	buf_put(b, &v, 1);
}

static inline void
wr_be32(struct buf *b, uint32_t v)
{
	wr_be(b, v, 4);
}

static inline void
wr_be64(struct buf *b, uint64_t v)
{
	wr_be(b, v, 8);
}

static inline void
wr_varint(struct buf *b, uint64_t v)
{
	uint8_t tmp[10];
	size_t n = 0;

	do {
		tmp[n] = (uint8_t)(v & 0x7f);
		v >>= 7;
		if (v != 0)
			tmp[n] |= 0x80;
		n++;
	} while (v != 0);
	buf_put(b, tmp, n);
}

/* Length as a varint, then the bytes. */
static inline void
wr_blob(struct buf *b, const void *p, size_t n)
{
	wr_varint(b, n);
	buf_put(b, p, n);
}

/* The inverse of wr_blob: a pointer into the input and its length, at most max. */
static inline const uint8_t *
rd_blob(struct rd *r, size_t max, size_t *n_out)
{
	*n_out = (size_t)rd_varint_max(r, max);
	const uint8_t *at = rd_bytes(r, *n_out);
	if (at == NULL)
		*n_out = 0;
	return at;
}

#endif
