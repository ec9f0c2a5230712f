/*
 * scan_annots.c - cyrus.annotations as a list by UID. In the file the keys are ordered as text
 * ("10" before "9"); here they are ordered by number, so that those of one message are found by
 * bisection.
 */
#include "meta/scan.h"

#include "meta/base/err.h"

#include <stdlib.h>
#include <string.h>

#define ANNOTS_MAX_FILE ((size_t)256 << 20)

int
scan_annots_add(struct scan_annots *a, const struct db_annot *x)
{
	if (a->n == a->cap) {
		size_t cap = a->cap < 16 ? 16 : a->cap * 2;
		struct db_annot *more = realloc(a->list, cap * sizeof(*more));
		if (more == NULL)
			return ERR_NOMEM;
		a->list = more;
		a->cap = cap;
	}
	a->list[a->n++] = *x;
	return 0;
}

static int
add_pair(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct db_annot x;
	int rc = db_annot_decode(key, klen, val, vlen, &x);

	return rc != 0 ? rc : scan_annots_add(arg, &x);
}

static int
by_uid(const void *a, const void *b)
{
	const struct db_annot *x = a, *y = b;

	if (x->uid != y->uid)
		return x->uid < y->uid ? -1 : 1;
	int c = strcmp(x->entry, y->entry);
	return c != 0 ? c : strcmp(x->userid, y->userid);
}

void
scan_annots_sort(struct scan_annots *a)
{
	if (a->n > 1)
		qsort(a->list, a->n, sizeof(*a->list), by_uid);
}

int
scan_annots_load(struct spool *sp, const char *dir, struct scan_annots *out)
{
	int rc;

	memset(out, 0, sizeof(*out));
	rc = spool_read(
		sp, dir, "cyrus.annotations", ANNOTS_MAX_FILE, &out->file, NULL);
	if (rc == ERR_NOTFOUND || (rc == 0 && out->file.len == 0))
		return 0;
	if (rc == 0)
		rc = db_twoskip_walk(out->file.data, out->file.len, add_pair, out);
	if (rc != 0) {
		scan_annots_close(out);
		return rc;
	}
	scan_annots_sort(out);
	return 0;
}

void
scan_annots_close(struct scan_annots *a)
{
	buf_fini(&a->file);
	free(a->list);
	a->list = NULL;
	a->n = a->cap = 0;
}

const struct db_annot *
scan_annots_of(const struct scan_annots *a, uint32_t uid, size_t *n_out)
{
	size_t lo = 0, hi = a->n, end;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (a->list[mid].uid < uid)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (end = lo; end < a->n && a->list[end].uid == uid; end++)
		;
	*n_out = end - lo;
	return *n_out > 0 ? a->list + lo : NULL;
}

struct sum
scan_annots_sum(const struct db_annot *list, size_t n)
{
	struct sum s = { 0, 0 };

	for (size_t i = 0; i < n; i++)
		sum_add(&s, sum_of_annot(&list[i]));
	return s;
}

static int
by_key(const void *a, const void *b)
{
	const struct db_pair *x = a, *y = b;
	size_t n = x->klen < y->klen ? x->klen : y->klen;
	int c = memcmp(x->key, y->key, n);

	if (c != 0)
		return c;
	return x->klen < y->klen ? -1 : x->klen > y->klen;
}

int
scan_annots_build(const struct scan_annots *a, struct buf *out)
{
	struct buf keys = BUF_INIT, vals = BUF_INIT;
	struct db_pair *pairs = calloc(a->n + 1, sizeof(*pairs));
	int rc = ERR_NOMEM;

	if (pairs == NULL)
		goto out;
	for (size_t i = 0; i < a->n; i++) {
		size_t k = keys.len, v = vals.len;
		db_annot_encode(&a->list[i], &keys, &vals);
		pairs[i].klen = keys.len - k;
		pairs[i].vlen = vals.len - v;
	}
	if (buf_ok(&keys) != 0 || buf_ok(&vals) != 0)
		goto out;
	/* Only now do the buffers lie still. */
	for (size_t i = 0, k = 0, v = 0; i < a->n; i++) {
		pairs[i].key = keys.data + k;
		pairs[i].val = vals.data + v;
		k += pairs[i].klen;
		v += pairs[i].vlen;
	}
	if (a->n > 1)
		qsort(pairs, a->n, sizeof(*pairs), by_key);
	rc = db_twoskip_build(pairs, a->n, 1, out);
out:
	free(pairs);
	buf_fini(&keys);
	buf_fini(&vals);
	return rc;
}
