/*
 * How it works: the two formats that are text. A flat file is sorted lines, key TAB value, with
 * four bytes escaped; a quota file is one list of resources, or, up to 2.3, two lines. Both are
 * replaced whole by Cyrus, so there is no state in between and never ERR_BUSY.
 */
#include "meta/db.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"

#include <string.h>

enum { ESCAPE = 0xff };

/* Appends the bytes that the escaped text stands for. */
static bool
unescape(const uint8_t *p, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t c = p[i];
		if (c == '\0' || c == '\r' || c == '\t')
			return false;
		if (c == ESCAPE) {
			if (++i == n)
				return false;
			c = p[i];
			if (c != ESCAPE)
				c &= 0x7f;
			if (c != ESCAPE && c != '\0' && c != '\t' && c != '\r' &&
				c != '\n')
				return false;
		}
		buf_put(out, &c, 1);
	}
	return true;
}

int
db_flat_walk(const void *p, size_t n, db_pair_fn *fn, void *arg)
{
	const uint8_t *at = p, *end = at + n;
	struct buf pair = BUF_INIT;
	int rc = 0;

	while (rc == 0 && at < end) {
		const uint8_t *lf = memchr(at, '\n', (size_t)(end - at));
		const uint8_t *tab = lf ? memchr(at, '\t', (size_t)(lf - at)) : NULL;
		rc = ERR_MANGLED;
		if (tab == NULL || tab == at)
			break;
		buf_clear(&pair);
		if (!unescape(at, (size_t)(tab - at), &pair))
			break;
		size_t klen = pair.len;
		if (!unescape(tab + 1, (size_t)(lf - tab - 1), &pair))
			break;
		rc = buf_ok(&pair);
		if (rc == 0)
			rc = fn(arg, pair.data, klen, pair.data + klen,
				pair.len - klen);
		at = lf + 1;
	}
	buf_fini(&pair);
	return rc;
}

static const uint8_t *
skip_number(const uint8_t *at, const uint8_t *end)
{
	const uint8_t *p = at;

	if (p < end && *p == '-')
		p++;
	const uint8_t *digits = p;
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p > digits ? p : NULL;
}

/* "(" number [SP number] ")" or a bare number; the pair's value is what is inside. */
static const uint8_t *
read_amounts(const uint8_t *at, const uint8_t *end, const uint8_t **from, size_t *n)
{
	bool list = at < end && *at == '(';

	if (list)
		at++;
	*from = at;
	at = skip_number(at, end);
	if (list && at != NULL && at < end && *at == ' ')
		at = skip_number(at + 1, end);
	if (at == NULL)
		return NULL;
	*n = (size_t)(at - *from);
	if (!list)
		return at;
	return at < end && *at == ')' ? at + 1 : NULL;
}

static int
walk_list(const uint8_t *at, const uint8_t *end, db_pair_fn *fn, void *arg)
{
	for (;;) {
		const uint8_t *key = at, *val;
		size_t vlen;
		while (at < end && *at >= 'A' && *at <= 'Z')
			at++;
		size_t klen = (size_t)(at - key);
		if (klen == 0 || at == end || *at != ' ')
			return ERR_MANGLED;
		at = read_amounts(at + 1, end, &val, &vlen);
		if (at == NULL || at == end)
			return ERR_MANGLED;
		int rc = fn(arg, key, klen, val, vlen);
		if (rc != 0)
			return rc;
		if (*at == ')')
			return end - at == 2 && at[1] == '\n' ? 0 : ERR_MANGLED;
		if (*at++ != ' ')
			return ERR_MANGLED;
	}
}

int
db_quotalegacy_walk(const void *p, size_t n, db_pair_fn *fn, void *arg)
{
	const uint8_t *start = p, *end = start + n;
	static const uint8_t storage[] = "S";

	if (n > 2 && memcmp(p, "%(", 2) == 0)
		return walk_list(start + 2, end, fn, arg);
	const uint8_t *lf = skip_number(start, end);
	const uint8_t *last = lf && lf < end ? skip_number(lf + 1, end) : NULL;
	if (last == NULL || *lf != '\n' || end - last != 1 || *last != '\n')
		return ERR_MANGLED;
	return fn(arg, storage, 1, start, (size_t)(last - start));
}
