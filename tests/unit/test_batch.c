/* test_batch.c - batches and their bytes: round trips, size, and what the decoder refuses. */
#include "meta/batch.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>

#define NS 1000000000ull

static uint64_t
below(uint64_t n)
{
	return t_rand() % n;
}

/* Small numbers and extreme ones alike. */
static uint64_t
any64(void)
{
	switch (below(4)) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX - below(3);
	default:
		return t_rand() >> below(64);
	}
}

static uint64_t
any_time(void)
{
	return below(3) == 0 ? t_rand() >> 1 : (1700000000 + below(100)) * NS;
}

static void
fill(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)t_rand();
}

static struct index_record
any_record(void)
{
	struct index_record r = {
		.uid = (uint32_t)any64() | 1,
		.internaldate = any_time(),
		.sentdate = any_time(),
		.size = any64(),
		.header_size = (uint32_t)any64(),
		.gmtime = any_time(),
		.last_updated = any_time(),
		.flags = (uint32_t)any64() &
			 ~(INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED),
		.savedate = any_time(),
		.modseq = any64(),
		.cid = any64(),
		.createdmodseq = any64(),
		.basecid = any64(),
	};
	fill(r.user_flags, sizeof(r.user_flags));
	fill(r.guid, sizeof(r.guid));
	return r;
}

static const char *
any_text(struct batch *b)
{
	char s[40];

	snprintf(s, sizeof(s), "a%llu/b", (unsigned long long)below(1000));
	return batch_keep(b, s, strlen(s));
}

static void
any_mbox_change(struct batch *b)
{
	struct change *c;

	switch (below(4)) {
	case 0: {
		c = batch_add(b, CHANGE_RECORD);
		struct change_record *r = &c->u.record;
		r->r = any_record();
		r->append = below(2);
		r->mask = t_rand() & 0x1ffff;
		if (r->append) {
			r->mask = CHANGE_ALL;
			r->r.cache_version = (uint32_t)below(20);
			r->r.cache_crc = (uint32_t)t_rand();
			r->cache_len = 1 + below(300);
			uint8_t *p = batch_room(b, r->cache_len);
			fill(p, r->cache_len);
			r->cache = below(2) ? p : NULL;
			if (r->cache == NULL)
				r->cache_len = 0;
			if (below(4) == 0) {
				r->r.flags |= INDEX_FLAG_ARCHIVED;
				r->elsewhere = true;
			}
			if (below(2)) {
				r->ref_dir = any_text(b);
				r->ref_uid = (uint32_t)any64();
			}
		} else if (below(2)) {
			r->r.flags |= INDEX_FLAG_EXPUNGED;
			r->mask |= CHANGE_RECORD_FLAGS | CHANGE_RECORD_GUID;
		}
		break;
	}
	case 1:
		c = batch_add(b, CHANGE_PURGE);
		c->u.purge.uid = (uint32_t)any64() | 1;
		fill(c->u.purge.guid, SHA1_LEN);
		break;
	default:
		c = batch_add(b, CHANGE_ANNOTS);
		c->u.annots.uid = (uint32_t)any64() | 1;
		c->u.annots.n = below(4);
		c->u.annots.list = batch_room(b, 4 * sizeof(struct change_annot));
		for (size_t i = 0; i < c->u.annots.n; i++) {
			struct change_annot *a = &c->u.annots.list[i];
			a->entry = any_text(b);
			a->userid = below(2) ? "" : any_text(b);
			a->value_len = below(50);
			a->value = batch_room(b, 50);
			a->modseq = any64();
			a->flags = (uint8_t)below(2);
		}
		break;
	}
}

static struct batch
any_mbox_batch(void)
{
	static const unsigned sorts[] = { 0, 0, BATCH_WHOLE, BATCH_DERIVED,
		BATCH_CREATE };
	struct batch b;
	struct change *c;

	batch_init(&b);
	b.flags = sorts[below(5)];
	b.dir = "user/x/box";
	b.uniqueid = "0123456789abcdef";
	if (below(3) == 0)
		b.from_dir = "user/x/old";
	if (b.flags == 0)
		fill(&b.before, sizeof(b.before));
	fill(&b.after, sizeof(b.after));
	b.sync_basic = (uint32_t)any64();
	b.sync_annot = (uint32_t)any64();
	if (below(3) == 0) {
		c = batch_add(&b, CHANGE_OWNER);
		c->u.owner =
			(struct change_owner){ 8, 8, 0700, 0600, 0600, 0600, 0600 };
	}
	if (below(3) == 0) {
		c = batch_add(&b, CHANGE_NAMES);
		c->u.names.n = below(400);
		uint8_t *p = batch_room(&b, 400);
		fill(p, 400);
		c->u.names.p = p;
	}
	for (size_t n = below(6); n > 0; n--)
		any_mbox_change(&b);
	if (below(3) == 0) {
		c = batch_add(&b, CHANGE_BODY);
		c->u.body = (struct change_body){ (uint32_t)any64(), (uint32_t)any64(),
			(uint32_t)any64(), (uint32_t)below(07777) };
	}
	c = batch_add(&b, CHANGE_HEADER);
	c->u.header.mask = t_rand() & 0x7fffff;
	c->u.header.h = (struct index_header){ .highestmodseq = any64(),
		.last_uid = (uint32_t)any64(),
		.recentuid = (uint32_t)any64(),
		.recenttime = any_time(),
		.last_appenddate = any_time(),
		.options = (uint32_t)any64(),
		.uidvalidity = (uint32_t)any64(),
		.quota_mailbox_used = any64(),
		.minor_version = 17 };
	return b;
}

static struct batch
any_path_batch(void)
{
	struct batch b;

	batch_init(&b);
	for (size_t n = below(5); n > 0; n--) {
		struct change *c = batch_add(
			&b, (enum change_kind)(CHANGE_FILE + below(CHANGE_SWAP - 6)));
		struct change_path *p = &c->u.path;
		p->path = any_text(&b);
		if (c->kind == CHANGE_MOVE || c->kind == CHANGE_SYMLINK ||
			c->kind == CHANGE_SWAP)
			p->target = any_text(&b);
		if (c->kind == CHANGE_SWAP)
			p->rdev = any64();
		if (c->kind == CHANGE_MOVE || c->kind == CHANGE_DELETE ||
			c->kind == CHANGE_SWAP)
			continue;
		p->uid = (uint32_t)any64();
		p->gid = (uint32_t)any64();
		p->mode = 0100000 | (uint32_t)below(07777);
		p->mtime = any_time();
		if (c->kind == CHANGE_NODE)
			p->rdev = any64();
		if (c->kind == CHANGE_FILE) {
			p->size = any64() >> 1;
			fill(p->sha1, SHA1_LEN);
		}
	}
	return b;
}

static bool
same_text(const struct batch *a, const struct batch *b)
{
	struct buf x = BUF_INIT, y = BUF_INIT;

	batch_print(a, &x);
	batch_print(b, &y);
	bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
	buf_fini(&x);
	buf_fini(&y);
	return same;
}

static void
round_trip(struct batch *b)
{
	struct buf one = BUF_INIT, two = BUF_INIT;
	struct batch back, peek;

	CHECK_EQ(batch_encode(b, &one), 0);
	CHECK_EQ(batch_decode(one.data, one.len, &back), 0);
	CHECK_EQ(back.n, b->n);
	CHECK_STR(back.dir, b->dir);
	CHECK_STR(back.uniqueid, b->uniqueid);
	CHECK(sum_eq(back.before, b->before) && sum_eq(back.after, b->after));
	CHECK_EQ(back.sync_basic, b->sync_basic);
	CHECK_EQ(back.sync_annot, b->sync_annot);
	CHECK_EQ(batch_removes(&back), batch_removes(b));
	CHECK(same_text(&back, b));
	CHECK_EQ(batch_encode(&back, &two), 0);
	CHECK_EQ(two.len, one.len);
	CHECK_MEM(one.data, two.data, one.len);
	CHECK_EQ(batch_peek(one.data, one.len, &peek), 0);
	CHECK_STR(peek.dir, b->dir);
	CHECK_EQ(peek.flags, b->flags);
	batch_fini(&peek);
	batch_fini(&back);
	buf_fini(&one);
	buf_fini(&two);
}

TEST(round_trips)
{
	for (int i = 0; i < 3000; i++) {
		struct batch b = i % 3 ? any_mbox_batch() : any_path_batch();
		round_trip(&b);
		batch_fini(&b);
	}
}

TEST(every_prefix_is_refused)
{
	for (int i = 0; i < 60; i++) {
		struct batch b = i % 3 ? any_mbox_batch() : any_path_batch(), back;
		struct buf out = BUF_INIT;
		CHECK_EQ(batch_encode(&b, &out), 0);
		for (size_t n = 0; n < out.len; n++) {
			/* A copy of its own, so that reading past the end is seen. */
			uint8_t *p = malloc(n > 0 ? n : 1);
			memcpy(p, out.data, n);
			CHECK_EQ(batch_decode(p, n, &back), ERR_MANGLED);
			free(p);
		}
		wr_u8(&out, 0);
		CHECK_EQ(batch_decode(out.data, out.len, &back), ERR_MANGLED);
		buf_fini(&out);
		batch_fini(&b);
	}
}

/* Damage must be refused, or give something that encodes again: never a crash. */
TEST(damage_does_no_harm)
{
	for (int i = 0; i < 4000; i++) {
		struct batch b = i % 3 ? any_mbox_batch() : any_path_batch(), back;
		struct buf out = BUF_INIT, again = BUF_INIT;
		CHECK_EQ(batch_encode(&b, &out), 0);
		for (uint64_t k = 1 + below(3); k > 0; k--)
			out.data[below(out.len)] ^= (uint8_t)(1u << below(8));
		if (batch_decode(out.data, out.len, &back) == 0) {
			CHECK_EQ(batch_encode(&back, &again), 0);
			batch_fini(&back);
		}
		buf_fini(&out);
		buf_fini(&again);
		batch_fini(&b);
	}
}

static struct batch
flag_change(uint32_t uid)
{
	struct batch b;

	batch_init(&b);
	b.dir = "uuid/a/b/abcdefghijklmnopqrstuvwx";
	b.uniqueid = "abcdefghijklmnopqrstuvwx";
	fill(&b.before, sizeof(b.before));
	fill(&b.after, sizeof(b.after));
	b.sync_basic = 0x12345678;
	struct change *c = batch_add(&b, CHANGE_RECORD);
	c->u.record.r = (struct index_record){ .uid = uid,
		.flags = INDEX_FLAG_SEEN,
		.modseq = 123456,
		.last_updated = 1790000000 * NS };
	c->u.record.mask = 7;
	c = batch_add(&b, CHANGE_HEADER);
	c->u.header.h = (struct index_header){ .highestmodseq = 123456, .unseen = 700 };
	c->u.header.mask = 3;
	return b;
}

TEST(one_flag_is_cheap)
{
	struct batch b = flag_change(30000);
	struct buf out = BUF_INIT;

	CHECK_EQ(batch_encode(&b, &out), 0);
	size_t names = strlen(b.dir) + strlen(b.uniqueid);
	printf("# a flag change takes %zu bytes and the names\n", out.len - names);
	CHECK(out.len - names <= 61);
	buf_fini(&out);
	batch_fini(&b);
}

static int
decoded(struct batch *b)
{
	struct buf out = BUF_INIT;
	struct batch back;
	int rc = batch_encode(b, &out);

	if (rc == 0)
		rc = batch_decode(out.data, out.len, &back);
	if (rc == 0)
		batch_fini(&back);
	buf_fini(&out);
	return rc;
}

TEST(an_expunge_names_its_guid)
{
	struct batch b = flag_change(7);
	struct change_record *r = &b.changes[0].u.record;

	r->r.flags |= INDEX_FLAG_EXPUNGED;
	CHECK_EQ(decoded(&b), ERR_MANGLED);
	r->mask |= CHANGE_RECORD_GUID;
	CHECK_EQ(decoded(&b), ERR_MANGLED); /* a GUID of zeros */
	r->r.guid[0] = 1;
	CHECK_EQ(decoded(&b), 0);
	CHECK(batch_removes(&b));
	r->r.flags = INDEX_FLAG_UNLINKED;
	r->mask &= ~(uint64_t)CHANGE_RECORD_GUID;
	CHECK_EQ(decoded(&b), ERR_MANGLED);
	batch_fini(&b);

	b = flag_change(7);
	CHECK(!batch_removes(&b));
	/* A batch that restates says "append" of each record; a new mailbox has nothing to lose. */
	r = &b.changes[0].u.record;
	r->append = true;
	r->r.flags = INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED;
	CHECK(!batch_removes(&b));
	b.flags = BATCH_DERIVED;
	CHECK(batch_removes(&b));
	b.flags = BATCH_DERIVED | BATCH_CREATE;
	CHECK(!batch_removes(&b));
	b.flags = 0;
	r->append = false;
	r->r.flags = 0;
	batch_add(&b, CHANGE_PURGE)->u.purge.uid = 3;
	CHECK_EQ(decoded(&b), ERR_MANGLED);
	b.flags = BATCH_DERIVED;
	CHECK_EQ(decoded(&b), 0);
	batch_fini(&b);
}

TEST(kinds_stay_in_their_sort_of_batch)
{
	struct batch b = flag_change(7);

	batch_add(&b, CHANGE_DELETE)->u.path.path = "x";
	CHECK_EQ(decoded(&b), ERR_MANGLED);
	b.n--;
	CHECK_EQ(decoded(&b), 0);
	batch_add(&b, CHANGE_HEADER);
	CHECK_EQ(decoded(&b), ERR_MANGLED); /* two headers */
	b.n = 0;
	b.flags = BATCH_REMOVE;
	CHECK_EQ(decoded(&b), 0);
	b.n = 1;
	CHECK_EQ(decoded(&b), ERR_MANGLED);
	b.flags = 0;
	b.dir = b.uniqueid = "";
	CHECK_EQ(decoded(&b), ERR_MANGLED);
	batch_fini(&b);
}

TEST(paths_stay_in_the_spool)
{
	static const char *const wrong[] = { "/etc", "a//b", "a/../b", "..", ".", "a/.",
		"", "a/" };
	struct batch b;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		batch_init(&b);
		batch_add(&b, CHANGE_DELETE)->u.path.path = wrong[i];
		CHECK_EQ(decoded(&b), ERR_MANGLED);
		b.changes[0].u.path.path = "a..b/c.";
		CHECK_EQ(decoded(&b), 0);
		batch_fini(&b);
		b = flag_change(7);
		if (wrong[i][0] != '\0') {
			b.dir = wrong[i];
			CHECK_EQ(decoded(&b), ERR_MANGLED);
		}
		batch_fini(&b);
	}
}

TEST(what_is_unknown_is_a_version)
{
	struct batch b = flag_change(7), back;
	struct buf out = BUF_INIT;

	CHECK_EQ(batch_encode(&b, &out), 0);
	out.data[0]++;
	CHECK_EQ(batch_decode(out.data, out.len, &back), ERR_VERSION);
	CHECK_EQ(batch_peek(out.data, out.len, &back), ERR_VERSION);
	out.data[0]--;
	static const uint8_t unknown_flag[] = { 1, 0x80, 0x02, 0, 0, 0 };
	CHECK_EQ(batch_decode(unknown_flag, sizeof(unknown_flag), &back), ERR_VERSION);
	buf_fini(&out);
	batch_fini(&b);

	batch_init(&b);
	batch_add(&b, CHANGE_DELETE)->u.path.path = "x";
	CHECK_EQ(batch_encode(&b, &out), 0);
	uint8_t *kind = &out.data[out.len - 3];
	CHECK_EQ(*kind, CHANGE_DELETE);
	*kind = 15;
	CHECK_EQ(batch_decode(out.data, out.len, &back), ERR_VERSION);
	*kind = CHANGE_DELETE | 0x10;
	CHECK_EQ(batch_decode(out.data, out.len, &back), ERR_VERSION);
	buf_fini(&out);
	batch_fini(&b);
}

TEST(too_large_is_said)
{
	struct batch b;
	struct buf out = BUF_INIT;

	batch_init(&b);
	b.dir = "d";
	b.uniqueid = "u";
	uint8_t *p = calloc(1, 16u << 20);
	for (int i = 0; i < 5; i++) {
		struct change *c = batch_add(&b, CHANGE_RECORD);
		c->u.record.append = true;
		c->u.record.r.uid = 1;
		c->u.record.cache = p;
		c->u.record.cache_len = 16u << 20;
	}
	CHECK_EQ(batch_encode(&b, &out), ERR_LIMIT);
	free(p);
	buf_fini(&out);
	batch_fini(&b);
}

TEST(diff_and_merge_are_inverse)
{
	for (int i = 0; i < 500; i++) {
		struct index_record a = any_record(), b = a, x = any_record();
		change_record_merge(&b, &x, t_rand());
		struct index_record c = a;
		change_record_merge(&c, &b, change_record_diff(&a, &b));
		CHECK_EQ(change_record_diff(&b, &c), 0);
	}
}

T_MAIN
