/*
 * buf.h - growable bytes, owned, with a hard maximum and a sticky failure.
 *
 * A write that does not fit marks the buffer failed and changes nothing else, so a caller may
 * write many fields and ask once with buf_ok. Not for use by two threads at once.
 */
#ifndef META_BASE_BUF_H
#define META_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUF_MAX_DEFAULT ((size_t)1 << 30)

struct buf {
	uint8_t *data;
	size_t len; /* bytes in use */
	size_t cap;
	size_t max; /* never grows beyond; 0 means BUF_MAX_DEFAULT */
	bool failed; /* out of memory or over max, sticky until buf_clear */
};

/* clang-format off */
#define BUF_INIT { NULL, 0, 0, 0, false }
/* clang-format on */

void buf_init(struct buf *b, size_t max);
/* Gives the memory back; the buffer is empty and usable afterwards. */
void buf_fini(struct buf *b);
/* Forgets the contents and the failure, keeps the memory. */
void buf_clear(struct buf *b);
/* 0, or ERR_NOMEM / ERR_LIMIT if any write since the last clear failed. */
int buf_ok(const struct buf *b);
/* Room for n more bytes; NULL on failure. Does not change len. */
uint8_t *buf_room(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *p, size_t n);
void
buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops n bytes from the front. */
void buf_drop(struct buf *b, size_t n);
/* The contents as a C string (a NUL is kept behind len); "" on failure. */
const char *buf_str(struct buf *b);

#endif
