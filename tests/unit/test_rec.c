#include "meta/base/rec.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <stdio.h>

struct item {
	uint32_t uid;
	const char *name;
};

struct all {
	uint8_t small;
	uint16_t middle;
	uint32_t big;
	uint64_t huge;
	bool yes;
	uint8_t guid[5];
	const char *name;
	struct rec_blob blob;
	struct rec_list list;
	uint64_t later;
};

static const struct rec_field item_fields[] = { REC_U32(struct item, uid),
	REC_STR(struct item, name, 20), REC_END };
static const struct rec_field all_fields[] = { REC_U8(struct all, small),
	REC_UINT(struct all, middle, 1000), REC_U32(struct all, big),
	REC_U64(struct all, huge), REC_BOOL(struct all, yes),
	REC_FIXED(struct all, guid), REC_STR(struct all, name, 10),
	REC_BLOB(struct all, blob, 300),
	REC_LIST(struct all, list, 50, item_fields, struct item),
	{ "later", REC_KIND_UINT, offsetof(struct all, later), 8, UINT64_MAX, NULL, 0,
		2 },
	REC_END };

static uint8_t bytes[300];
static struct item items[50];

static struct all
sample(void)
{
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)t_rand();
	for (size_t i = 0; i < 50; i++)
		items[i] = (struct item){ (uint32_t)t_rand(), i % 2 ? "abc" : NULL };
	struct all a = { (uint8_t)t_rand(), (uint16_t)(t_rand() % 1001),
		(uint32_t)t_rand(), t_rand() >> (t_rand() % 64), t_rand() & 1,
		{ 1, 2, 3, 4, (uint8_t)t_rand() }, "a name", { bytes, t_rand() % 301 },
		{ items, t_rand() % 51 }, t_rand() };
	return a;
}

TEST(round_trip)
{
	for (int i = 0; i < 500; i++) {
		struct all in = sample(), out;
		struct buf b = BUF_INIT;
		struct rec_mem mem = { 0 };
		CHECK_EQ(rec_encode(all_fields, &in, &b), 0);
		CHECK_EQ(b.len, rec_size(all_fields, &in));
		struct rd r = rd_over(b.data, b.len);
		CHECK_EQ(rec_decode(all_fields, &r, &mem, &out), 0);
		CHECK(rd_done(&r));
		CHECK(rec_equal(all_fields, &in, &out));
		CHECK_EQ(out.huge, in.huge);
		CHECK_STR(out.name, "a name");
		rec_mem_fini(&mem);
		buf_fini(&b);
	}
}

TEST(truncations_are_mangled)
{
	struct all in = sample(), out;
	struct buf b = BUF_INIT;

	CHECK_EQ(rec_encode(all_fields, &in, &b), 0);
	for (size_t n = 0; n < b.len; n++) {
		struct rec_mem mem = { 0 };
		struct rd r = rd_over(b.data, n);
		CHECK_EQ(rec_decode(all_fields, &r, &mem, &out), ERR_MANGLED);
		rec_mem_fini(&mem);
	}
	buf_fini(&b);
}

TEST(limits_hold_both_ways)
{
	struct all in = sample(), out;
	struct buf b = BUF_INIT;
	struct rec_mem mem = { 0 };
	struct rd r;

	wr_u8(&b, 77);
	in.middle = 1001;
	CHECK_EQ(rec_encode(all_fields, &in, &b), ERR_LIMIT);
	CHECK_EQ(b.len, 1);
	in = sample();
	in.name = "eleven char";
	CHECK_EQ(rec_encode(all_fields, &in, &b), ERR_LIMIT);
	in = sample();
	in.blob.n = 301;
	CHECK_EQ(rec_encode(all_fields, &in, &b), ERR_LIMIT);
	in = sample();
	in.list.n = 51;
	CHECK_EQ(rec_encode(all_fields, &in, &b), ERR_LIMIT);
	CHECK_EQ(b.len, 1);
	/* small 256 does not fit its member though the varint is good */
	buf_clear(&b);
	wr_varint(&b, 256);
	r = rd_over(b.data, b.len);
	CHECK_EQ(rec_decode(all_fields, &r, &mem, &out), ERR_MANGLED);
	CHECK_EQ(mem.used, 0);
	buf_fini(&b);
}

/* A count must be believable from the bytes left before memory is asked for. */
TEST(counts_do_not_allocate)
{
	static const struct rec_field many[] = { REC_LIST(struct all, list, UINT32_MAX,
							 item_fields, struct item),
		REC_END };
	struct buf b = BUF_INIT;
	struct rec_mem mem = { 0 };
	struct all out;

	wr_varint(&b, 1000000);
	for (int i = 0; i < 20; i++)
		wr_u8(&b, 0);
	struct rd r = rd_over(b.data, b.len);
	CHECK_EQ(rec_decode(many, &r, &mem, &out), ERR_MANGLED);
	CHECK_EQ(mem.used, 0);
	mem.max = 64;
	buf_clear(&b);
	wr_varint(&b, 5);
	for (int i = 0; i < 10; i++)
		wr_u8(&b, 0);
	r = rd_over(b.data, b.len);
	CHECK_EQ(rec_decode(many, &r, &mem, &out), ERR_NOMEM);
	rec_mem_fini(&mem);
	buf_fini(&b);
}

TEST(versions_skip_fields)
{
	struct all in = sample(), out;
	struct buf old = BUF_INIT, new = BUF_INIT;
	struct rec_mem mem = { 0 };

	in.later = 1 << 20;
	CHECK_EQ(rec_encode_at(all_fields, 1, &in, &old), 0);
	CHECK_EQ(rec_encode_at(all_fields, 2, &in, &new), 0);
	CHECK_EQ(new.len, old.len + 3);
	struct rd r = rd_over(old.data, old.len);
	CHECK_EQ(rec_decode_at(all_fields, 1, &r, &mem, &out), 0);
	CHECK(rd_done(&r));
	CHECK_EQ(out.later, 0);
	CHECK_EQ(out.huge, in.huge);
	rec_mem_fini(&mem);
	buf_fini(&old);
	buf_fini(&new);
}

TEST(text_and_json)
{
	struct item two[2] = { { 7, "x" }, { 8, "\"\\\x01\xc3\xa9\xff" } };
	struct all a = { 1, 2, 3, 4, true, { 0xab, 0, 0, 0, 1 }, "n m", { bytes, 2 },
		{ two, 2 }, 9 };
	struct buf b = BUF_INIT;

	bytes[0] = 0xde;
	bytes[1] = 0x0f;
	rec_print(all_fields, &a, &b);
	CHECK_STR(buf_str(&b),
		"small=1 middle=2 big=3 huge=4 yes=1 guid=ab00000001 name=\"n m\" "
		"blob=de0f list=[uid=7 name=\"x\"; uid=8 "
		"name=\"\\x22\\x5c\\x01\\xc3\\xa9\\xff\"] later=9");
	buf_clear(&b);
	rec_json(all_fields, &a, &b);
	CHECK_STR(buf_str(&b),
		"{\"small\":1,\"middle\":2,\"big\":3,\"huge\":4,\"yes\":1,"
		"\"guid\":\"ab00000001\",\"name\":\"n m\",\"blob\":\"de0f\","
		"\"list\":[{\"uid\":7,\"name\":\"x\"},{\"uid\":8,"
		"\"name\":\"\\\"\\\\\\u0001\xc3\xa9\\u00ff\"}],\"later\":9}");
	buf_fini(&b);
}

T_MAIN
