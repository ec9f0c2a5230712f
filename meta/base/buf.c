/*
 * buf.c - a failure sticks: once a buffer could not grow or met its maximum, every later put does
 * nothing, and buf_ok says so; callers look once, at the end.
 */
#include "meta/base/buf.h"
#include "meta/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
buf_init(struct buf *b, size_t max)
{
	*b = (struct buf)BUF_INIT;
	b->max = max;
}

void
buf_fini(struct buf *b)
{
	free(b->data);
	buf_init(b, b->max);
}

void
buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = false;
}

int
buf_ok(const struct buf *b)
{
	return b->failed ? ERR_LIMIT : 0;
}

uint8_t *
buf_room(struct buf *b, size_t n)
{
	size_t max = b->max ? b->max : BUF_MAX_DEFAULT;

	if (b->failed || n > max - b->len) {
		b->failed = true;
		return NULL;
	}
	if (n > b->cap - b->len || b->data == NULL) {
		size_t want = b->cap ? b->cap : 64;
		while (want < b->len + n)
			want *= 2;
		uint8_t *grown = realloc(b->data, want);
		if (grown == NULL) {
			b->failed = true;
			return NULL;
		}
		b->data = grown;
		b->cap = want;
	}
	return b->data + b->len;
}

void
buf_put(struct buf *b, const void *p, size_t n)
{
	uint8_t *at = buf_room(b, n);

	if (at == NULL)
		return;
	if (n > 0)
		memcpy(at, p, n);
	b->len += n;
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->failed = true;
		return;
	}
	uint8_t *at = buf_room(b, (size_t)n + 1);
	if (at == NULL)
		return;
	va_start(ap, fmt);
	vsnprintf((char *)at, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

void
buf_drop(struct buf *b, size_t n)
{
	if (n >= b->len) {
		b->len = 0;
		return;
	}
	memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
}

const char *
buf_str(struct buf *b)
{
	uint8_t *at = buf_room(b, 1);

	if (at == NULL)
		return "";
	*at = '\0';
	return (const char *)b->data;
}
