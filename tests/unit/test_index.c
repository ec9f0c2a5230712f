#include "meta/base/err.h"
#include "meta/index.h"
#include "meta/layout.h"
#include "tests/lib/t.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define NS 1000000000ull

static const uint32_t minors[] = { 10, 12, 13, 14, 15, 16, 17, 18, 19, 20 };
enum { N_MINORS = sizeof(minors) / sizeof(minors[0]) };

static void
fill(void *p, size_t n)
{
	uint8_t *at = p;

	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)t_rand();
}

static void
put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* Every byte of header and record belongs to at most one row of a version. */
TEST(rows_do_not_overlap)
{
	for (int v = 0; v < N_MINORS; v++) {
		const struct layout *l = layout_of(minors[v]);
		for (int which = 0; which < 2; which++) {
			const struct layout_field *f =
				which ? layout_record : layout_header;
			size_t size = (which ? l->record_size : l->header_size) -
				      (l->crc ? 4u : 0);
			uint8_t used[INDEX_MAX_HEADER] = { 0 };
			for (; f->name != NULL; f++) {
				if (minors[v] < f->from || minors[v] > f->to)
					continue;
				CHECK(f->off + f->size <= size);
				for (int i = 0; i < f->size; i++)
					CHECK_EQ(used[f->off + i]++, 0);
			}
		}
	}
}

/* Bytes of the spare words, which the table leaves out, per version. */
TEST(rows_cover_all_but_the_spares)
{
	static const struct {
		uint32_t minor;
		size_t header, record;
	} spare[] = { { 10, 20, 0 }, { 12, 12, 4 }, { 13, 0, 4 }, { 14, 28, 4 },
		{ 15, 28, 0 }, { 16, 20, 0 }, { 17, 16, 0 }, { 18, 0, 0 }, { 19, 0, 0 },
		{ 20, 0, 0 } };

	for (size_t v = 0; v < N_MINORS; v++) {
		const struct layout *l = layout_of(spare[v].minor);
		size_t header = 0, record = 0;
		for (const struct layout_field *f = layout_header; f->name; f++)
			if (l->minor >= f->from && l->minor <= f->to)
				header += f->size;
		for (const struct layout_field *f = layout_record; f->name; f++)
			if (l->minor >= f->from && l->minor <= f->to)
				record += f->size;
		size_t crc = l->crc ? 4 : 0;
		CHECK_EQ(header + crc + spare[v].header, l->header_size);
		CHECK_EQ(record + crc + spare[v].record, l->record_size);
	}
}

TEST(sizes)
{
	CHECK_EQ(index_header_size(17), 160);
	CHECK_EQ(index_record_size(17), 112);
	CHECK_EQ(index_header_size(11), 0);
	CHECK_EQ(index_record_size(21), 0);
	CHECK_EQ(index_record_size(0), 0);
}

/* bytes -> struct -> bytes, for random bytes with the spares at zero. */
TEST(record_round_trip)
{
	for (int round = 0; round < 300; round++) {
		uint32_t minor = minors[round % N_MINORS];
		struct index_record r, again;
		uint8_t a[INDEX_MAX_RECORD], b[INDEX_MAX_RECORD];

		memset(&r, 0, sizeof(r));
		uint8_t raw[INDEX_MAX_RECORD];
		fill(raw, sizeof(raw));
		layout_read(layout_record, minor, raw, &r);
		if (r.uid == 0)
			r.uid = 1;
		CHECK_EQ(index_record_encode(minor, &r, a), 0);
		CHECK_EQ(index_record_decode(minor, a, &again), 0);
		CHECK_MEM(&r, &again, sizeof(r));
		CHECK_EQ(index_record_encode(minor, &again, b), 0);
		CHECK_MEM(a, b, index_record_size(minor));
	}
}

TEST(header_round_trip)
{
	for (int round = 0; round < 300; round++) {
		uint32_t minor = minors[round % N_MINORS];
		struct index_header h = { 0 }, again;
		uint8_t a[INDEX_MAX_HEADER], b[INDEX_MAX_HEADER], raw[INDEX_MAX_HEADER];

		fill(raw, sizeof(raw));
		layout_read(layout_header, minor, raw, &h);
		h.format = 0;
		h.minor_version = minor;
		h.start_offset = (uint32_t)index_header_size(minor);
		h.record_size = (uint32_t)index_record_size(minor);
		CHECK_EQ(index_header_encode(&h, a), 0);
		CHECK_EQ(index_header_decode(a, sizeof(a), &again), 0);
		CHECK_MEM(&h, &again, sizeof(h));
		CHECK_EQ(index_header_encode(&again, b), 0);
		CHECK_MEM(a, b, index_header_size(minor));
	}
}

TEST(places)
{
	static const struct {
		uint32_t minor;
		int off;
		uint32_t value;
	} want[] = { { 17, 0, 7 }, { 17, 4, 1600000000 }, { 17, 12, 4321 },
		{ 17, 24, 0x55667788 }, { 17, 36, 5 }, { 17, 52, 1600000001 },
		{ 17, 56, 0x3344000b }, { 17, 84, 99 }, { 17, 104, 0xcafe },
		{ 12, 88, 0xcafe }, { 14, 96, 0xcafe }, { 10, 20, 300 },
		{ 20, 136, 0xcafe }, { 20, 4, 0x55667788 }, { 20, 56, 0x3344000b },
		{ 20, 28, 4321 } };
	struct index_record r = { .uid = 7,
		.internaldate = 1600000000 * NS,
		.size = 4321,
		.header_size = 300,
		.cache_offset = 0x334455667788,
		.user_flags = { 5, 0, 0, 0 },
		.savedate = 1600000001 * NS,
		.cache_version = 11,
		.modseq = 99,
		.cache_crc = 0xcafe };

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		uint8_t a[INDEX_MAX_RECORD], v[4];
		CHECK_EQ(index_record_encode(want[i].minor, &r, a), 0);
		put32(v, want[i].value);
		CHECK_MEM(a + want[i].off, v, 4);
	}
}

TEST(what_does_not_fit_is_refused)
{
	struct index_record r = { .uid = 1, .size = 1ull << 32 };
	struct index_record late = { .uid = 1, .internaldate = (1ull << 32) * NS };
	struct index_record far = { .uid = 1, .cache_offset = 1ull << 48 };
	uint8_t a[INDEX_MAX_RECORD];

	CHECK_EQ(index_record_encode(17, &r, a), ERR_LIMIT);
	CHECK_EQ(index_record_encode(20, &r, a), 0);
	CHECK_EQ(index_record_encode(17, &late, a), ERR_LIMIT);
	CHECK_EQ(index_record_encode(20, &late, a), 0);
	CHECK_EQ(index_record_encode(17, &far, a), ERR_LIMIT);
	r.size = 1;
	r.cache_version = 0x10000;
	CHECK_EQ(index_record_encode(17, &r, a), ERR_LIMIT);
}

/* An index of n records, UIDs 2, 4, 6 ... unless dense. */
static size_t
build(uint32_t minor, uint32_t n, uint32_t step, uint8_t *out)
{
	struct index_header h = { .minor_version = minor, .num_records = n };
	size_t at = index_header_size(minor);

	index_header_encode(&h, out);
	for (uint32_t i = 0; i < n; i++) {
		struct index_record r = { .uid = (i + 1) * step, .modseq = i };
		index_record_encode(minor, &r, out + at);
		at += index_record_size(minor);
	}
	return at;
}

TEST(find)
{
	static uint8_t bytes[200 * 256];
	struct index_view v;
	uint32_t i;

	for (int m = 0; m < N_MINORS; m++)
		for (uint32_t step = 1; step <= 3; step++)
			for (uint32_t n = 0; n < 40; n++) {
				size_t size = build(minors[m], n, step, bytes);
				CHECK_EQ(index_view_open(&v, bytes, size), 0);
				for (uint32_t uid = 0; uid <= n * step + 2; uid++) {
					int want = uid > 0 && uid % step == 0 &&
								   uid / step <= n
							   ? 0
							   : ERR_NOTFOUND;
					uint32_t place = uid ? (uid - 1) / step : 0;
					if (place > n)
						place = n;
					CHECK_EQ(index_view_find(&v, uid, &i), want);
					CHECK_EQ(i, place);
				}
			}
}

TEST(damage)
{
	static uint8_t bytes[4096], bad[4096];
	struct index_view v;
	struct index_record r;
	size_t size = build(17, 3, 1, bytes);

	CHECK_EQ(index_view_open(&v, bytes, 0), ERR_MANGLED);
	for (size_t n = 0; n < size; n++)
		CHECK_EQ(index_view_open(&v, bytes, n), ERR_MANGLED);
	for (int bit = 0; bit < 160 * 8; bit++) {
		memcpy(bad, bytes, size);
		bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int rc = index_view_open(&v, bad, size);
		int byte = bit / 8;
		CHECK(rc == ERR_CHECKSUM || rc == ERR_VERSION);
		if (byte < 4 || byte >= 20)
			CHECK_EQ(rc, ERR_CHECKSUM);
	}
	for (int bit = 0; bit < 112 * 8; bit++) {
		memcpy(bad, bytes, size);
		bad[160 + 112 + bit / 8] ^= (uint8_t)(1 << bit % 8);
		CHECK_EQ(index_view_open(&v, bad, size), 0);
		CHECK_EQ(index_view_record(&v, 0, &r), 0);
		CHECK_EQ(index_view_record(&v, 1, &r), ERR_CHECKSUM);
		CHECK_EQ(index_view_record(&v, 2, &r), 0);
		CHECK_EQ(index_view_record(&v, 3, &r), ERR_NOTFOUND);
	}
	/* A record wiped to zero, CRC and all, and one of another version. */
	struct index_record none = { 0 };
	index_record_encode(17, &none, bytes + 160);
	CHECK_EQ(index_record_decode(17, bytes + 160, &r), ERR_MANGLED);
	CHECK_EQ(index_record_decode(11, bytes + 160, &r), ERR_VERSION);
}

/* Values worked out beside this code, with Python's zlib. */
TEST(sync_crcs)
{
	const char *names[INDEX_USER_FLAGS] = { "Important", NULL, "$Forwarded" };
	struct index_record r = { .uid = 3,
		.modseq = 12,
		.last_updated = 1700000009 * NS + 5,
		.internaldate = 1600000000 * NS + 7,
		.flags = INDEX_FLAG_SEEN | INDEX_FLAG_FLAGGED | INDEX_FLAG_ARCHIVED,
		.user_flags = { 7, 0, 0, 0 },
		.cid = 0xabc,
		.savedate = 1700000001 * NS,
		.createdmodseq = 5,
		.basecid = 0xdef };

	memset(r.guid, 0x1f, sizeof(r.guid));
	CHECK_EQ(index_crc_basic(&r, names), 0x14e1c3a1);
	CHECK_EQ(index_crc_virtual(12, &r), 0);
	CHECK_EQ(index_crc_virtual(13, &r), 0x2881868f);
	CHECK_EQ(index_crc_virtual(15, &r), 0x0a9e4df3);
	CHECK_EQ(index_crc_virtual(17, &r), 0x18356910);
	CHECK_EQ(index_crc_virtual(20, &r), 0x913eebfa);
	CHECK_EQ(index_crc_annot(3, "/comment", "", "x y", 3), 0x12cb993a);
	r.flags |= INDEX_FLAG_EXPUNGED;
	CHECK_EQ(index_crc_basic(&r, names), 0);
	CHECK_EQ(index_crc_virtual(17, &r), 0);
}

/* A number with any number of digits, and each that is one more than them. */
static uint64_t
some_number(void)
{
	static const uint64_t edges[] = { 0, 1, 9, 10, 15, 16, 99, 100, 4294967295u,
		4294967296u, 9999999999u, UINT64_MAX };
	uint64_t n = t_rand();

	return n % 3 == 0 ? edges[t_rand() % (sizeof(edges) / sizeof(edges[0]))]
			  : t_rand() >> n % 64;
}

#define CMU "/vendor/cmu/cyrus-imapd/"

static uint32_t
crc_printed(const char *text)
{
	return hash_crc32(0, text, strlen(text));
}

/* Cyrus prints what it sums up; this is how. */
TEST(the_texts_of_cyrus_own_sums)
{
	const char *const none[INDEX_USER_FLAGS] = { NULL };
	char text[300], guid[2 * SHA1_LEN + 1];

	for (int n = 0; n < 3000; n++) {
		uint32_t minor = n % 2 == 0 ? 20 : 17, crc = 0;
		struct index_record r = { .uid = (uint32_t)some_number(),
			.modseq = some_number(),
			.last_updated = some_number() / NS * NS,
			.internaldate = some_number() / NS * NS,
			.cid = some_number(),
			.savedate = some_number(),
			.createdmodseq = some_number(),
			.basecid = some_number() };
		fill(r.guid, sizeof(r.guid));
		hash_hex(r.guid, SHA1_LEN, guid);
		snprintf(text, sizeof(text), "%" PRIu32 " %" PRIu64 " %llu (0) %llu %s",
			r.uid, r.modseq, r.last_updated / NS, r.internaldate / NS,
			guid);
		CHECK_EQ(index_crc_basic(&r, none), crc_printed(text));
		snprintf(text, sizeof(text),
			minor == 20 ? "%" PRIu32 " " CMU "thrid  %016" PRIx64
				    : "%" PRIu32 " " CMU "thrid  %" PRIx64,
			r.uid, r.cid);
		crc ^= r.cid != 0 ? crc_printed(text) : 0;
		snprintf(text, sizeof(text), "%" PRIu32 " " CMU "savedate  %llu", r.uid,
			r.savedate / NS);
		crc ^= r.savedate / NS != 0 ? crc_printed(text) : 0;
		snprintf(text, sizeof(text),
			"%" PRIu32 " " CMU "createdmodseq  %" PRIu64, r.uid,
			r.createdmodseq);
		crc ^= r.createdmodseq != 0 ? crc_printed(text) : 0;
		snprintf(text, sizeof(text),
			"%" PRIu32 " " CMU "basethrid  %016" PRIx64, r.uid, r.basecid);
		crc ^= minor == 20 && r.basecid != 0 ? crc_printed(text) : 0;
		CHECK_EQ(index_crc_virtual(minor, &r), crc);
	}
}

static int n_fields, n_times;
static const char *wanted;

static void
count(void *arg, const char *name, uint64_t value, int is_time)
{
	(void)arg, (void)value;
	n_fields++;
	n_times += is_time;
	if (strcmp(name, wanted) == 0)
		n_fields += 100;
}

TEST(fields)
{
	struct index_header h = { .minor_version = 12 };
	struct index_record r = { 0 };

	wanted = "unseen";
	index_header_fields(&h, count, NULL);
	CHECK_EQ(n_fields, 25);
	CHECK_EQ(n_times, 5);
	n_fields = n_times = 0;
	wanted = "createdmodseq";
	index_record_fields(17, &r, count, NULL);
	CHECK_EQ(n_fields, 119);
	CHECK_EQ(n_times, 5);
}

T_MAIN
