/*
 * sum.c - how a sum is made.
 *
 * Each thing is written as a tag byte and its fields, big-endian and of fixed width, strings
 * with their length in front; SHA-256 of that, cut to 128 bits, is the thing's own sum. Adding
 * them up forgets the order, so one thing can be taken out and another put in.
 *
 * A change to an encoding makes all sums of two different builds differ: the tags carry the
 * version of each encoding and are changed with it.
 */
#include "meta/sum.h"

#include "meta/base/cur.h"
#include "meta/base/hash.h"
#include "meta/db.h"
#include "meta/index.h"

#define TAG_RECORD 'r'
#define TAG_ANNOT 'a'
#define TAG_HEADER 'h'
#define TAG_NAMES 'n'

/* Bytes of the largest fixed encoding, with room to spare. */
#define ENC_MAX 256

struct enc {
	uint8_t p[ENC_MAX];
	size_t n;
};

static void
put(struct enc *e, uint64_t v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		e->p[e->n + i] = (uint8_t)(v >> (8 * (n - 1 - i)));
	e->n += n;
}

static void
put_bytes(struct enc *e, const void *p, size_t n)
{
	memcpy(e->p + e->n, p, n);
	e->n += n;
}

static struct sum
sum_of_bytes(const void *p, size_t n)
{
	uint8_t h[SHA256_LEN];

	hash_sha256(p, n, h);
	return sum_get(h);
}

struct sum
sum_of_record(const struct index_record *r)
{
	struct enc e = { .n = 0 };

	put(&e, TAG_RECORD, 1);
	put(&e, r->uid, 4);
	put(&e, r->internaldate, 8);
	put(&e, r->sentdate, 8);
	put(&e, r->size, 8);
	put(&e, r->header_size, 4);
	put(&e, r->gmtime, 8);
	put(&e, r->last_updated, 8);
	put(&e, r->flags & ~INDEX_FLAG_NEEDS_CLEANUP, 4);
	for (size_t i = 0; i < INDEX_USER_FLAGS / 32; i++)
		put(&e, r->user_flags[i], 4);
	put(&e, r->savedate, 8);
	put_bytes(&e, r->guid, SHA1_LEN);
	put(&e, r->modseq, 8);
	put(&e, r->cid, 8);
	put(&e, r->createdmodseq, 8);
	put(&e, r->basecid, 8);
	return sum_of_bytes(e.p, e.n);
}

struct sum
sum_of_header(const struct index_header *h)
{
	struct enc e = { .n = 0 };

	put(&e, TAG_HEADER, 1);
	put(&e, h->last_appenddate, 8);
	put(&e, h->last_uid, 4);
	put(&e, h->quota_mailbox_used, 8);
	put(&e, h->pop3_last_login, 8);
	put(&e, h->uidvalidity, 4);
	put(&e, h->deleted, 4);
	put(&e, h->answered, 4);
	put(&e, h->flagged, 4);
	put(&e, h->unseen, 4);
	put(&e, h->exists, 4);
	put(&e, h->options & INDEX_OPT_REPLICATED, 4);
	put(&e, h->highestmodseq, 8);
	put(&e, h->deletedmodseq, 8);
	put(&e, h->last_repack_time, 8);
	put(&e, h->recentuid, 4);
	put(&e, h->recenttime, 8);
	put(&e, h->pop3_show_after, 8);
	put(&e, h->quota_annot_used, 8);
	put(&e, h->createdmodseq, 8);
	put(&e, h->changes_epoch, 8);
	put(&e, h->quota_deleted_used, 8);
	put(&e, h->quota_expunged_used, 8);
	return sum_of_bytes(e.p, e.n);
}

/* The variable parts are hashed first, so that this needs no memory. */
struct sum
sum_of_annot(const struct db_annot *a)
{
	struct enc e = { .n = 0 };
	uint8_t h[SHA256_LEN];

	put(&e, TAG_ANNOT, 1);
	put(&e, a->uid, 4);
	put(&e, a->modseq, 8);
	put(&e, a->flags, 1);
	hash_sha256(a->entry, strlen(a->entry), h);
	put_bytes(&e, h, sizeof(h));
	hash_sha256(a->userid, strlen(a->userid), h);
	put_bytes(&e, h, sizeof(h));
	hash_sha256(a->value_len > 0 ? (const void *)a->value : "", a->value_len, h);
	put_bytes(&e, h, sizeof(h));
	return sum_of_bytes(e.p, e.n);
}

struct sum
sum_of_names(const void *p, size_t n)
{
	struct enc e = { .n = 0 };
	uint8_t h[SHA256_LEN];

	put(&e, TAG_NAMES, 1);
	put(&e, n, 8);
	hash_sha256(n > 0 ? p : "", n, h);
	put_bytes(&e, h, sizeof(h));
	return sum_of_bytes(e.p, e.n);
}

void
sum_add(struct sum *s, struct sum x)
{
	s->lo += x.lo;
	s->hi += x.hi + (s->lo < x.lo);
}

void
sum_sub(struct sum *s, struct sum x)
{
	s->hi -= x.hi + (s->lo < x.lo);
	s->lo -= x.lo;
}

bool
sum_eq(struct sum a, struct sum b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

void
sum_put(struct sum s, uint8_t out[SUM_LEN])
{
	for (size_t i = 0; i < 8; i++) {
		out[i] = (uint8_t)(s.hi >> (56 - 8 * i));
		out[8 + i] = (uint8_t)(s.lo >> (56 - 8 * i));
	}
}

struct sum
sum_get(const uint8_t in[SUM_LEN])
{
	struct sum s = { 0, 0 };

	for (size_t i = 0; i < 8; i++) {
		s.hi = s.hi << 8 | in[i];
		s.lo = s.lo << 8 | in[8 + i];
	}
	return s;
}

struct sum
mbox_sum_total(const struct mbox_sum *s)
{
	struct sum t = s->records;

	sum_add(&t, s->annots);
	sum_add(&t, s->header);
	sum_add(&t, s->names);
	return t;
}
