/* test_sum.c - sums: arithmetic, order, and that every replicated field counts. */
#include "meta/sum.h"

#include "meta/db.h"
#include "meta/index.h"
#include "tests/lib/t.h"

#include <stddef.h>

TEST(add_and_sub_carry)
{
	struct sum a = { 1, UINT64_MAX }, b = { 2, 1 };

	sum_add(&a, b);
	CHECK(a.hi == 4 && a.lo == 0);
	sum_sub(&a, b);
	CHECK(a.hi == 1 && a.lo == UINT64_MAX);
	struct sum zero = { 0, 0 };
	sum_sub(&zero, b);
	sum_add(&zero, b);
	CHECK(zero.hi == 0 && zero.lo == 0);
}

TEST(order_does_not_matter)
{
	struct index_record r = { .uid = 1, .modseq = 5 };
	struct sum forward = { 0, 0 }, back = { 0, 0 };

	for (uint32_t i = 1; i <= 50; i++) {
		r.uid = i;
		sum_add(&forward, sum_of_record(&r));
	}
	for (uint32_t i = 50; i >= 1; i--) {
		r.uid = i;
		sum_add(&back, sum_of_record(&r));
	}
	CHECK(sum_eq(forward, back));
	sum_sub(&back, sum_of_record(&r));
	CHECK(!sum_eq(forward, back));
}

TEST(put_and_get_are_inverse)
{
	struct sum s = { 0x0102030405060708, 0x090a0b0c0d0e0f10 };
	uint8_t p[SUM_LEN];

	sum_put(s, p);
	for (uint8_t i = 0; i < SUM_LEN; i++)
		CHECK_EQ(p[i], i + 1);
	CHECK(sum_eq(sum_get(p), s));
}

/* A sum must not change by accident: peers of different builds compare them.
 * The values were computed by another program from the description in sum.h. */
TEST(known_values)
{
	struct index_record r = { .uid = 7, .size = 123, .modseq = 99, .flags = 1 };
	struct index_header h = { .last_uid = 7, .uidvalidity = 42 };
	struct db_annot a = { .uid = 7, .entry = "/comment", .userid = "" };

	CHECK_EQ(sum_of_record(&r).hi, (long long)0x8332c05faf7dbc69);
	CHECK_EQ(sum_of_header(&h).hi, (long long)0x00a5785dcb188411);
	CHECK_EQ(sum_of_annot(&a).hi, (long long)0xb2770488ad332523);
	CHECK_EQ(sum_of_names("abc", 3).hi, (long long)0x98c5d82fd38376d9);
}

#define REC(f) \
	{ \
#f, offsetof(struct index_record, f), true \
	}
#define NOREC(f) \
	{ \
#f, offsetof(struct index_record, f), false \
	}

TEST(every_record_field_counts)
{
	static const struct {
		const char *name;
		size_t at;
		bool counts;
	} fields[] = { REC(uid), REC(internaldate), REC(sentdate), REC(size),
		REC(header_size), REC(gmtime), NOREC(cache_offset), REC(last_updated),
		REC(flags), REC(user_flags[0]), REC(user_flags[3]), REC(savedate),
		NOREC(content_lines), NOREC(cache_version), REC(guid), REC(modseq),
		REC(cid), REC(createdmodseq), REC(basecid), NOREC(cache_crc) };
	struct index_record r = { .uid = 3 };
	struct sum base = sum_of_record(&r);

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		struct index_record x = r;
		((uint8_t *)&x)[fields[i].at] ^= 0x10;
		CHECK_EQ(sum_eq(sum_of_record(&x), base), !fields[i].counts);
	}
	r.flags |= INDEX_FLAG_NEEDS_CLEANUP;
	CHECK(sum_eq(sum_of_record(&r), base));
}

#define HDR(f) \
	{ \
#f, offsetof(struct index_header, f), true \
	}
#define NOHDR(f) \
	{ \
#f, offsetof(struct index_header, f), false \
	}

TEST(every_header_field_counts)
{
	static const struct {
		const char *name;
		size_t at;
		bool counts;
	} fields[] = { NOHDR(generation_no), NOHDR(minor_version), NOHDR(num_records),
		HDR(last_appenddate), HDR(last_uid), HDR(quota_mailbox_used),
		HDR(pop3_last_login), HDR(uidvalidity), HDR(deleted), HDR(answered),
		HDR(flagged), HDR(options), NOHDR(leaked_cache_records),
		HDR(highestmodseq), HDR(deletedmodseq), HDR(exists),
		NOHDR(first_expunged), HDR(last_repack_time), NOHDR(header_file_crc),
		NOHDR(sync_basic), HDR(recentuid), HDR(recenttime),
		HDR(pop3_show_after), HDR(quota_annot_used), NOHDR(sync_annot),
		HDR(unseen), HDR(createdmodseq), HDR(changes_epoch),
		HDR(quota_deleted_used), HDR(quota_expunged_used) };
	struct index_header h = { .last_uid = 3 };
	struct sum base = sum_of_header(&h);

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		struct index_header x = h;
		((uint8_t *)&x)[fields[i].at] ^= 0x4;
		CHECK_EQ(sum_eq(sum_of_header(&x), base), !fields[i].counts);
	}
	h.options |= INDEX_OPT_NEEDS_UNLINK | INDEX_OPT_NEEDS_REPACK;
	CHECK(sum_eq(sum_of_header(&h), base));
}

TEST(annotation_parts_do_not_run_together)
{
	struct db_annot a = { .uid = 1,
		.entry = "/ab",
		.userid = "c",
		.value = (const uint8_t *)"v",
		.value_len = 1 };
	struct db_annot b = a;
	struct sum base = sum_of_annot(&a);

	b.entry = "/a";
	b.userid = "bc";
	CHECK(!sum_eq(sum_of_annot(&b), base));
	b = a;
	b.value_len = 0;
	CHECK(!sum_eq(sum_of_annot(&b), base));
	b = a;
	b.flags = 1;
	CHECK(!sum_eq(sum_of_annot(&b), base));
	b = a;
	b.modseq = 1;
	CHECK(!sum_eq(sum_of_annot(&b), base));
}

TEST(total_is_of_all_parts)
{
	struct mbox_sum s = { { 1, 1 }, { 2, 2 }, { 4, 4 }, { 8, 8 } };
	struct sum t = mbox_sum_total(&s);

	CHECK(t.hi == 15 && t.lo == 15);
}

T_MAIN
