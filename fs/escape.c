/*
 * escape.c - how it works: both go from one character to the next, and differ in what they escape.
 */
#include "fs/escape.h"

#include <stdbool.h>
#include <stddef.h>

/* Length of the UTF-8 character at p, 0 if it is none (overlong, surrogate, too high). */
static size_t
utf8_len(const unsigned char *p)
{
	size_t n = p[0] < 0x80 ? 1 : 0;
	unsigned char lo = 0x80, hi = 0xbf;

	if (p[0] >= 0xc2 && p[0] < 0xf5)
		n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (p[0] == 0xe0)
		lo = 0xa0;
	else if (p[0] == 0xed)
		hi = 0x9f;
	else if (p[0] == 0xf0)
		lo = 0x90;
	else if (p[0] == 0xf4)
		hi = 0x8f;
	for (size_t i = 1; i < n; i++) {
		if (p[i] < lo || p[i] > hi)
			return 0;
		lo = 0x80;
		hi = 0xbf;
	}
	return n;
}

static bool
put_json(struct buf *out, unsigned char c)
{
	if (c == '"' || c == '\\')
		buf_printf(out, "\\%c", c);
	else if (c < 0x20 || c == 0x7f)
		buf_printf(out, "\\u%04x", c);
	else
		return false;
	return true;
}

/* Prometheus knows three escapes. */
static bool
put_label(struct buf *out, unsigned char c)
{
	if (c == '"' || c == '\\')
		buf_printf(out, "\\%c", c);
	else if (c == '\n')
		buf_put(out, "\\n", 2);
	else
		return false;
	return true;
}

/* special says whether it has put the character itself. */
static void
quote(struct buf *out, const char *text, bool (*special)(struct buf *, unsigned char))
{
	const unsigned char *p = (const unsigned char *)text;

	buf_put(out, "\"", 1);
	while (*p != '\0') {
		size_t n = utf8_len(p);
		if (n == 0)
			buf_put(out, "\xef\xbf\xbd", 3);
		else if (!special(out, *p))
			buf_put(out, p, n);
		p += n == 0 ? 1 : n;
	}
	buf_put(out, "\"", 1);
}

void
escape_json(struct buf *out, const char *text)
{
	quote(out, text, put_json);
}

void
escape_label(struct buf *out, const char *text)
{
	quote(out, text, put_label);
}
