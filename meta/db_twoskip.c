/*
 * How it works. A twoskip file is an append-only run of records, threaded by pointers that are
 * rewritten in place (F6.1). Pointers 0 and 1 of a record are two versions of the same link, so
 * that an unfinished transaction leaves the other one good: the larger that lies below
 * current_size holds. Pointer i+1 is the link of skip level i.
 *
 *   read    Follow level 0 from the dummy at 64. A DELETE in the chain only hands on to what
 *           comes behind it. Head and tail CRC of each record passed are checked, and a chain
 *           with more steps than the file can hold records is a loop.
 *   check   The same walk; beside it, for every level, where the level says its next record is:
 *           a record of level n must be where levels 0 to n-1 expect it.
 *   build   As Cyrus would have written sorted pairs in one transaction into a new file: the
 *           dummy, the records with fillers in front where a head would cross a block of 512,
 *           a COMMIT. Levels come from the place in the order, which makes every level halve.
 *
 * Every position comes from the bytes and is checked against current_size before it is used.
 */
#include "meta/db.h"
#include "meta/base/buf.h"
#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
	HEADER_SIZE = 64,
	DUMMY_AT = 64,
	DUMMY_SIZE = 272,
	MAX_LEVEL = 31,
	MIN_RECORD = 24,
	BLOCK = 512,
	DIRTY = 1
};

static const char magic[20] = "\xa1\x02\x8b\x0dtwoskip file";
static const char filler[8] = " BLANK\x07\xa0";

struct file {
	const uint8_t *p;
	uint64_t generation, num_records, repack_size, size;
	uint32_t flags;
};

struct record {
	uint64_t at, end;
	uint8_t type, level;
	uint64_t next[MAX_LEVEL + 1];
	const uint8_t *key, *val;
	size_t klen, vlen;
};

static int
open_file(const void *p, size_t n, struct file *f)
{
	struct rd r = rd_over(p, n);
	const uint8_t *start = rd_bytes(&r, sizeof(magic));

	if (start == NULL || memcmp(start, magic, sizeof(magic)) != 0)
		return ERR_VERSION;
	uint32_t version = rd_be32(&r);
	f->p = p;
	f->generation = rd_be64(&r);
	f->num_records = rd_be64(&r);
	f->repack_size = rd_be64(&r);
	f->size = rd_be64(&r);
	f->flags = rd_be32(&r);
	uint32_t crc = rd_be32(&r);
	if (!rd_ok(&r))
		return ERR_MANGLED;
	if (crc != hash_crc32(0, p, HEADER_SIZE - 4))
		return ERR_CHECKSUM;
	if (version != 1)
		return ERR_VERSION;
	if (f->size < DUMMY_AT + DUMMY_SIZE || f->size > n)
		return ERR_MANGLED;
	return (f->flags & DIRTY) || f->size != n ? ERR_BUSY : 0;
}

/* The record at an offset that came from the file. ERR_CHECKSUM tells which CRC in *tail_out. */
static int
read_record(const struct file *f, uint64_t at, struct record *rec, bool *tail_out)
{
	*tail_out = false;
	rec->at = at;
	if (at % 8 != 0 || at < DUMMY_AT || at > f->size - MIN_RECORD)
		return ERR_MANGLED;
	struct rd r = rd_over(f->p + at, (size_t)(f->size - at));
	rec->type = rd_u8(&r);
	rec->level = rd_u8(&r);
	uint64_t klen = rd_be(&r, 2);
	uint64_t vlen = rd_be32(&r);
	if (klen == UINT16_MAX)
		klen = rd_be64(&r);
	if (vlen == UINT32_MAX)
		vlen = rd_be64(&r);
	if (rec->level > MAX_LEVEL)
		return ERR_MANGLED;
	memset(rec->next, 0, sizeof(rec->next));
	for (unsigned i = 0; i <= rec->level; i++)
		rec->next[i] = rd_be64(&r);
	size_t head = (size_t)(r.p - (f->p + at));
	uint32_t head_crc = rd_be32(&r), tail_crc = rd_be32(&r);
	if (!rd_ok(&r) || klen > rd_left(&r) || vlen > rd_left(&r) - klen)
		return ERR_MANGLED;
	size_t padded = (size_t)((klen + vlen + 7) & ~(uint64_t)7);
	rec->key = rd_bytes(&r, padded);
	if (rec->key == NULL)
		return ERR_MANGLED;
	rec->val = rec->key + klen;
	rec->klen = (size_t)klen;
	rec->vlen = (size_t)vlen;
	rec->end = (uint64_t)(r.p - f->p);
	if (hash_crc32(0, f->p + at, head) != head_crc)
		return ERR_CHECKSUM;
	*tail_out = true;
	return hash_crc32(0, rec->key, padded) == tail_crc ? 0 : ERR_CHECKSUM;
}

/* The link of a skip level; 0 at the end. */
static uint64_t
link_of(const struct file *f, const struct record *rec, unsigned level)
{
	uint64_t a = rec->next[0], b = rec->next[1];

	if (level > 0)
		return level < MAX_LEVEL ? rec->next[level + 1] : 0;
	if (a >= f->size)
		return b;
	if (b >= f->size)
		return a;
	return a > b ? a : b;
}

/* The next live record from offset at on: 0 and rec->at 0 at the end. steps bounds all walks. */
static int
next_live(const struct file *f, uint64_t at, struct record *rec, uint64_t *steps,
	bool *tail_out)
{
	*tail_out = false;
	while (at != 0) {
		if ((*steps)++ > f->size / MIN_RECORD)
			return ERR_MANGLED;
		int rc = read_record(f, at, rec, tail_out);
		if (rc != 0)
			return rc;
		if (rec->type == '+')
			return rec->level == 0 ? ERR_MANGLED : 0;
		if (rec->type != '-')
			return ERR_MANGLED;
		at = rec->next[0];
	}
	rec->at = 0;
	return 0;
}

static int
read_dummy(const struct file *f, struct record *rec, bool *tail_out)
{
	int rc = read_record(f, DUMMY_AT, rec, tail_out);

	if (rc == 0 && (rec->type != '=' || rec->level != MAX_LEVEL))
		rc = ERR_MANGLED;
	return rc;
}

int
db_twoskip_walk(const void *p, size_t n, db_pair_fn *fn, void *arg)
{
	struct file f;
	struct record rec;
	uint64_t steps = 0, count = 0;
	bool tail;
	int rc = open_file(p, n, &f);

	if (rc == 0)
		rc = read_dummy(&f, &rec, &tail);
	while (rc == 0) {
		rc = next_live(&f, link_of(&f, &rec, 0), &rec, &steps, &tail);
		if (rc != 0 || rec.at == 0)
			break;
		count++;
		rc = fn(arg, rec.key, rec.klen, rec.val, rec.vlen);
	}
	if (rc == 0 && count != f.num_records)
		rc = ERR_MANGLED;
	return rc;
}

struct check {
	void (*say)(void *arg, const char *check, const char *text);
	void *arg;
	int failures;
};

static void __attribute__((format(printf, 3, 4)))
tell(struct check *c, const char *name, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->failures++;
	c->say(c->arg, name, text);
}

static void
tell_record(struct check *c, int rc, bool tail, uint64_t at)
{
	if (rc == ERR_CHECKSUM)
		tell(c, tail ? "twoskip-tail-crc" : "twoskip-head-crc",
			"CRC of the %s at %" PRIu64, tail ? "key and value" : "record",
			at);
	else
		tell(c, "twoskip-chain", "no valid record at %" PRIu64, at);
}

static int
compare(const struct record *a, const struct record *b)
{
	size_t n = a->klen < b->klen ? a->klen : b->klen;
	int d = n ? memcmp(a->key, b->key, n) : 0;

	return d ? d : (a->klen > b->klen) - (a->klen < b->klen);
}

/* The walk of the check. False when the chain is lost and nothing more can be said. */
static bool
check_chain(const struct file *f, struct check *c)
{
	uint64_t expect[MAX_LEVEL], steps = 0, count = 0;
	struct record rec, prev = { 0 };
	bool tail;
	int rc = read_dummy(f, &rec, &tail);

	if (rc != 0) {
		tell_record(c, rc, tail, DUMMY_AT);
		return false;
	}
	for (unsigned i = 0; i < MAX_LEVEL; i++)
		expect[i] = link_of(f, &rec, i);
	for (;;) {
		uint64_t at = expect[0];
		rc = next_live(f, at, &rec, &steps, &tail);
		/* What the key and value are does not matter for the way on. */
		if (rc != 0)
			tell_record(c, rc, tail, rec.at ? rec.at : at);
		if (rc != 0 && !(rc == ERR_CHECKSUM && tail && rec.type == '+'))
			return false;
		if (rec.at == 0)
			break;
		if (count++ > 0 && compare(&rec, &prev) <= 0)
			tell(c, "twoskip-order",
				"the key at %" PRIu64 " is not above the one before",
				rec.at);
		for (unsigned i = 1; i < rec.level; i++)
			if (expect[i] != rec.at)
				tell(c, "twoskip-levels",
					"level %u leads to %" PRIu64 ", not %" PRIu64,
					i, expect[i], rec.at);
		for (unsigned i = 0; i < rec.level; i++)
			expect[i] = link_of(f, &rec, i);
		prev = rec;
	}
	for (unsigned i = 1; i < MAX_LEVEL; i++)
		if (expect[i] != 0)
			tell(c, "twoskip-levels", "level %u does not end", i);
	if (count != f->num_records)
		tell(c, "twoskip-count",
			"%" PRIu64 " records, the header says %" PRIu64, count,
			f->num_records);
	return true;
}

int
db_twoskip_check(const void *p, size_t n,
	void (*say)(void *arg, const char *check, const char *text), void *arg)
{
	struct check c = { say, arg, 0 };
	struct file f;

	switch (open_file(p, n, &f)) {
	case 0:
		check_chain(&f, &c);
		break;
	case ERR_BUSY:
		if (f.flags & DIRTY)
			tell(&c, "twoskip-dirty", "a transaction was not finished");
		else
			tell(&c, "twoskip-size", "%zu bytes, the header says %" PRIu64,
				n, f.size);
		break;
	case ERR_CHECKSUM:
		tell(&c, "twoskip-header-crc", "CRC of the header");
		break;
	case ERR_VERSION:
		tell(&c, "twoskip-magic", "not a twoskip file of version 1");
		break;
	default:
		tell(&c, "twoskip-size", "%zu bytes: shorter than the header says", n);
	}
	return c.failures;
}

/* The bytes of a head without its pointers' values. */
static size_t
head_size(size_t klen, size_t vlen, unsigned level)
{
	return 8 + (klen >= UINT16_MAX ? 8 : 0) + (vlen >= UINT32_MAX ? 8 : 0) +
	       8 * (level + 1) + 8;
}

/* Fillers, so that a head of this size does not straddle a block. */
static void
put_fillers(struct buf *out, size_t head)
{
	if (head > BLOCK - 8)
		return;
	while (!out->failed && (out->len + 8) % BLOCK > (out->len - 8 + head) % BLOCK)
		buf_put(out, filler, sizeof(filler));
}

static void
put_record(struct buf *out, char type, unsigned level, const struct db_pair *pair)
{
	static const uint8_t zeros[8 * (MAX_LEVEL + 1) + 8];
	size_t klen = pair ? pair->klen : 0, vlen = pair ? pair->vlen : 0;
	size_t head = head_size(klen, vlen, level);

	put_fillers(out, head);
	wr_u8(out, (uint8_t)type);
	wr_u8(out, (uint8_t)level);
	wr_be(out, klen >= UINT16_MAX ? UINT16_MAX : klen, 2);
	wr_be(out, vlen >= UINT32_MAX ? UINT32_MAX : vlen, 4);
	if (klen >= UINT16_MAX)
		wr_be64(out, klen);
	if (vlen >= UINT32_MAX)
		wr_be64(out, vlen);
	buf_put(out, zeros, 8 * (level + 1) + 8);
	if (pair != NULL) {
		buf_put(out, pair->key, klen);
		buf_put(out, pair->val, vlen);
		buf_put(out, zeros, (8 - (klen + vlen) % 8) % 8);
	}
}

static void
set_be(struct buf *out, size_t at, uint64_t v, size_t n)
{
	for (size_t i = 0; !out->failed && i < n; i++)
		out->data[at + i] = (uint8_t)(v >> (8 * (n - 1 - i)));
}

/* The CRCs of the record from at to end, once its pointers are final. */
static void
seal(struct buf *out, size_t at)
{
	if (out->failed)
		return;
	struct rd r = rd_over(out->data + at, out->len - at);
	rd_u8(&r);
	unsigned level = rd_u8(&r);
	uint64_t klen = rd_be(&r, 2), vlen = rd_be32(&r);
	bool long_key = klen == UINT16_MAX, long_val = vlen == UINT32_MAX;
	if (long_key)
		klen = rd_be64(&r);
	if (long_val)
		vlen = rd_be64(&r);
	size_t head = 8 + (long_key ? 8u : 0) + (long_val ? 8u : 0) + 8 * (level + 1);
	size_t tail = (size_t)((klen + vlen + 7) & ~(uint64_t)7);
	set_be(out, at + head, hash_crc32(0, out->data + at, head), 4);
	set_be(out, at + head + 4, hash_crc32(0, out->data + at + head + 8, tail), 4);
}

static bool
ascending(const struct db_pair *pairs, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct record a = { .key = pairs[i - 1].key,
			.klen = pairs[i - 1].klen };
		struct record b = { .key = pairs[i].key, .klen = pairs[i].klen };
		if (compare(&a, &b) >= 0)
			return false;
	}
	return n == 0 || pairs[0].klen > 0;
}

int
db_twoskip_build(
	const struct db_pair *pairs, size_t n, uint64_t generation, struct buf *out)
{
	static const uint8_t zeros[HEADER_SIZE];
	size_t last[MAX_LEVEL]; /* where pointer 0 of the last record of a level is */
	size_t repack_size;

	if (out->len != 0 || !ascending(pairs, n))
		return ERR_USAGE;
	buf_put(out, zeros, HEADER_SIZE);
	put_record(out, '=', MAX_LEVEL, NULL);
	for (unsigned i = 0; i < MAX_LEVEL; i++)
		last[i] = DUMMY_AT + 8;
	for (size_t k = 0; k < n && !out->failed; k++) {
		unsigned level = 1 + (unsigned)__builtin_ctzll(k + 1);
		if (level > MAX_LEVEL)
			level = MAX_LEVEL;
		size_t head = head_size(pairs[k].klen, pairs[k].vlen, level);
		put_fillers(out, head);
		size_t at = out->len;
		put_record(out, '+', level, &pairs[k]);
		for (unsigned i = 0; i < level; i++) {
			/* Level 0 has two places; a fresh file uses the second. */
			set_be(out, last[i] + 8 * (i + 1), at, 8);
			last[i] = at + head - 8 - 8 * (level + 1);
		}
	}
	repack_size = out->len;
	/* Pointers are final now. The records lie one behind the other, fillers between. */
	for (size_t at = DUMMY_AT; !out->failed && at < out->len;) {
		if (out->data[at] == ' ') {
			at += sizeof(filler);
			continue;
		}
		struct file f = { .p = out->data, .size = out->len };
		struct record rec;
		bool tail;
		seal(out, at);
		if (read_record(&f, at, &rec, &tail) != 0)
			return ERR_MANGLED;
		at = (size_t)rec.end;
	}
	if (n > 0) {
		put_fillers(out, head_size(0, 0, 0));
		size_t at = out->len;
		put_record(out, '$', 0, NULL);
		set_be(out, at + 8, DUMMY_AT + DUMMY_SIZE, 8);
		seal(out, at);
	}
	if (buf_ok(out) != 0)
		return buf_ok(out);
	memcpy(out->data, magic, sizeof(magic));
	set_be(out, 20, 1, 4);
	set_be(out, 24, generation, 8);
	set_be(out, 32, n, 8);
	set_be(out, 40, repack_size, 8);
	set_be(out, 48, out->len, 8);
	set_be(out, 56, 0, 4);
	set_be(out, 60, hash_crc32(0, out->data, HEADER_SIZE - 4), 4);
	return 0;
}
