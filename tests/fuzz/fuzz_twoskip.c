/* Any bytes as a twoskip file. What walks is built anew and must walk the same. */
#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/db.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

enum { MAX_PAIRS = 64 };

struct pairs {
	struct db_pair list[MAX_PAIRS];
	size_t n;
};

static int
keep(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct pairs *pairs = arg;

	if (pairs->n == MAX_PAIRS)
		return 1;
	pairs->list[pairs->n++] = (struct db_pair){ key, klen, val, vlen };
	return 0;
}

static void
say(void *arg, const char *check, const char *text)
{
	*(size_t *)arg += strlen(check) + strlen(text);
}

static void
set_be(uint8_t *p, uint64_t v, int n)
{
	for (int i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
}

static uint64_t
get_be(const uint8_t *p, int n)
{
	uint64_t v = 0;

	for (int i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

/* Right CRCs and size, so that the fuzzer gets beyond them. */
static void
seal(uint8_t *p, size_t n)
{
	if (n < 336)
		return;
	set_be(p + 48, n, 8);
	set_be(p + 56, 0, 4);
	set_be(p + 60, hash_crc32(0, p, 60), 4);
	for (size_t at = 64; at + 24 <= n; at += 8) {
		uint64_t klen = get_be(p + at + 2, 2), vlen = get_be(p + at + 4, 4);
		size_t head = 8 + 8 * (p[at + 1] + 1u);
		size_t tail = (size_t)((klen + vlen + 7) & ~7ull);
		if (strchr("=+-$", p[at]) == NULL || p[at] == 0 || p[at + 1] > 31 ||
			klen == 0xffff || vlen > n || at + head + 8 + tail > n)
			continue;
		set_be(p + at + head, hash_crc32(0, p + at, head), 4);
		set_be(p + at + head + 4, hash_crc32(0, p + at + head + 8, tail), 4);
		at += head + tail;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	uint8_t *copy = malloc(n + 1);
	struct pairs a = { .n = 0 }, b = { .n = 0 };
	struct buf out = BUF_INIT;
	size_t words = 0;

	if (copy == NULL)
		return 0;
	memcpy(copy, p, n);
	if (n > 0 && (p[n - 1] & 1) == 0)
		seal(copy, n);
	int failures = db_twoskip_check(copy, n, say, &words);
	int rc = db_twoskip_walk(copy, n, keep, &a);
	if (failures == 0 && rc < 0)
		abort();
	if (rc == 0 && db_twoskip_build(a.list, a.n, 1, &out) == 0) {
		if (db_twoskip_walk(out.data, out.len, keep, &b) != 0 || a.n != b.n ||
			db_twoskip_check(out.data, out.len, say, &words) != 0)
			abort();
		for (size_t i = 0; i < a.n; i++)
			if (a.list[i].klen != b.list[i].klen ||
				memcmp(a.list[i].key, b.list[i].key, a.list[i].klen))
				abort();
	}
	buf_fini(&out);
	free(copy);
	return 0;
}
