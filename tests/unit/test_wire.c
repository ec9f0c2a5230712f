#include "sync/wire.h"
#include "sync/zip.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const names[] = { "", "a", "user/fred/Sent Items", "h\xc3\xa9",
	"x{7}", "nineteen characters" };
static uint8_t bytes[70000];

/* Fills any struct by its table with values within the limits. */
static void
fill(const struct rec_field *f, char *obj, unsigned depth, void **list_mem)
{
	for (; f->kind != REC_KIND_END; f++) {
		char *at = obj + f->offset;
		uint64_t v;
		size_t n;

		switch (f->kind) {
		case REC_KIND_UINT:
			v = t_rand() >> (t_rand() % 64);
			if (f->limit < UINT64_MAX)
				v %= f->limit + 1;
			if (f->size == 8)
				memcpy(at, &v, 8);
			else if (f->size == 4)
				*(uint32_t *)(void *)at = (uint32_t)v;
			else
				*(uint8_t *)at = (uint8_t)v;
			break;
		case REC_KIND_FIXED:
			for (size_t i = 0; i < f->size; i++)
				at[i] = (char)t_rand();
			break;
		case REC_KIND_STR:
			*(const char **)(void *)at =
				names[t_rand() % (sizeof(names) / sizeof(names[0]))];
			break;
		case REC_KIND_BLOB:
			n = t_rand() % 3000;
			*(struct rec_blob *)(void *)at = (struct rec_blob){ bytes,
				n > f->limit ? (size_t)f->limit : n };
			break;
		case REC_KIND_LIST:
			n = t_rand() % 20;
			*list_mem = calloc(n + 1, f->sub_size);
			for (size_t i = 0; i < n; i++)
				fill(f->sub, (char *)*list_mem + i * f->sub_size,
					depth + 1, NULL);
			*(struct rec_list *)(void *)at =
				(struct rec_list){ *list_mem, n };
			break;
		case REC_KIND_END:
			break;
		}
	}
}

/* A message of the type with random contents as a frame. */
static int
frame_of(unsigned type, union wire_any *msg, void **list_mem, struct buf *out)
{
	*list_mem = NULL;
	memset(msg, 0, sizeof(*msg));
	fill(wire_kind(type)->fields, (char *)msg, 0, list_mem);
	return wire_encode(type, WIRE_PROTO_MAX, msg, out);
}

TEST(round_trip_of_every_message)
{
	unsigned seen = 0;

	for (unsigned type = 0; type < WIRE_TYPES; type++) {
		if (wire_kind(type) == NULL)
			continue;
		seen++;
		for (int i = 0; i < 200; i++) {
			union wire_any in, out;
			struct wire_frame f;
			struct rec_mem mem = { 0 };
			struct buf b = BUF_INIT;
			void *list;
			CHECK_EQ(frame_of(type, &in, &list, &b), 0);
			CHECK_EQ(wire_peek(b.data, b.len, 1, &f), 0);
			CHECK_EQ(f.type, type);
			CHECK_EQ(f.head + f.body, b.len);
			CHECK_EQ(wire_decode(
					 type, 1, b.data + f.head, f.body, &mem, &out),
				0);
			CHECK(rec_equal(wire_kind(type)->fields, &in, &out));
			rec_mem_fini(&mem);
			buf_fini(&b);
			free(list);
		}
	}
	CHECK_EQ(seen, 18);
	CHECK(wire_kind(0) == NULL && wire_kind(WIRE_TYPES) == NULL);
}

/* Peeks and decodes whatever it is; true if it is a whole good message. */
static bool
take(const uint8_t *p, size_t n, int *peek_out)
{
	/* a copy of exact size, so that the sanitizer sees a step beyond it */
	uint8_t *copy = malloc(n > 0 ? n : 1);
	struct rec_mem mem = { 0 };
	struct wire_frame f;
	union wire_any msg;
	bool good = false;

	memcpy(copy, p, n);
	*peek_out = wire_peek(copy, n, 1, &f);
	if (*peek_out == 0 && f.type != 0 && n - f.head >= f.body)
		good = wire_decode(f.type, 1, copy + f.head, f.body, &mem, &msg) == 0;
	rec_mem_fini(&mem);
	free(copy);
	return good;
}

TEST(every_truncation_and_bit_flip)
{
	for (unsigned type = 1; type < WIRE_TYPES; type++) {
		union wire_any msg;
		struct buf b = BUF_INIT;
		void *list;
		int rc;

		CHECK_EQ(frame_of(type, &msg, &list, &b), 0);
		for (size_t n = 0; n < b.len; n++) {
			CHECK(!take(b.data, n, &rc));
			CHECK_EQ(rc, 0); /* more is needed, nothing is wrong yet */
		}
		for (size_t i = 0; i < b.len * 8; i++) {
			b.data[i / 8] ^= (uint8_t)(1 << (i % 8));
			take(b.data, b.len, &rc);
			b.data[i / 8] ^= (uint8_t)(1 << (i % 8));
		}
		CHECK(take(b.data, b.len, &rc));
		/* a length that says one byte less or more than the fields have */
		if (b.data[0] < 0x7f && type != WIRE_HELLO && type != WIRE_BYE) {
			b.data[0]++;
			wr_u8(&b, 0);
			CHECK(!take(b.data, b.len, &rc));
			b.data[0] -= 2;
			CHECK(!take(b.data, b.len, &rc));
		}
		buf_fini(&b);
		free(list);
	}
}

TEST(limits_before_memory)
{
	struct wire_frame f;
	struct buf b = BUF_INIT;

	for (unsigned type = 1; type < WIRE_TYPES; type++) {
		buf_clear(&b);
		wr_varint(&b, wire_kind(type)->max + 1);
		wr_u8(&b, (uint8_t)type);
		CHECK_EQ(wire_peek(b.data, b.len, 1, &f), ERR_PROTO);
	}
	buf_clear(&b);
	wr_varint(&b, 0);
	CHECK_EQ(wire_peek(b.data, b.len, 1, &f), ERR_PROTO);
	buf_clear(&b);
	wr_varint(&b, (uint64_t)1 << 40);
	CHECK_EQ(wire_peek(b.data, b.len, 1, &f), ERR_PROTO);
	CHECK_EQ(wire_peek("\x80\x80\x80\x80", 4, 1, &f), 0);
	CHECK_EQ(f.type, 0);
	CHECK_EQ(wire_peek("\x80\x80\x80\x80\x80", 5, 1, &f), ERR_PROTO);
	CHECK_EQ(wire_peek("\x02\x63", 2, 1, &f), ERR_VERSION);
	struct wire_quarantine q = { "d", 1, names[5], NULL };
	char text[WIRE_TEXT_MAX + 2];
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	q.text = text;
	buf_clear(&b);
	CHECK_EQ(wire_encode(WIRE_QUARANTINE, 1, &q, &b), ERR_LIMIT);
	CHECK_EQ(b.len, 0);
	buf_fini(&b);
}

/* HELLO and BYE of a later version may say more. */
TEST(later_hello_is_read)
{
	struct wire_hello h = { .proto_min = 1, .proto_max = 2, .name = "b" };
	struct rec_mem mem = { 0 };
	struct wire_frame f;
	union wire_any out;
	struct buf b = BUF_INIT;

	CHECK_EQ(wire_encode(WIRE_HELLO, 1, &h, &b), 0);
	b.data[0] += 3;
	buf_put(&b, "new", 3);
	CHECK_EQ(wire_peek(b.data, b.len, 1, &f), 0);
	CHECK_EQ(wire_decode(f.type, 1, b.data + f.head, f.body, &mem, &out), 0);
	CHECK_STR(out.hello.name, "b");
	rec_mem_fini(&mem);
	buf_fini(&b);
}

TEST(small_frames_are_small)
{
	struct wire_ack ack = { 100000, 100000, 99999 };
	struct wire_batch batch = { 100000, { bytes, 40 } };
	struct buf b = BUF_INIT;

	CHECK_EQ(wire_encode(WIRE_ACK, 1, &ack, &b), 0);
	CHECK_EQ(b.len, 11);
	buf_clear(&b);
	CHECK_EQ(wire_encode(WIRE_BATCH, 1, &batch, &b), 0);
	CHECK_EQ(b.len, 46);
	buf_fini(&b);
}

TEST(zip_carries_bursts)
{
	struct zip_out *out;
	struct zip_in *in;
	struct buf zipped = BUF_INIT, plain = BUF_INIT;

	CHECK_EQ(zip_out_open(&out), 0);
	CHECK_EQ(zip_in_open(&in), 0);
	for (int i = 0; i < 300; i++) {
		size_t n = t_rand() % (i % 10 == 0 ? 70000 : 200), off = 0, used;
		bool full = true;
		for (size_t j = 0; j < n; j++)
			bytes[j] = (uint8_t)(t_rand() % (1 + t_rand() % 100));
		buf_clear(&zipped);
		CHECK_EQ(zip_out_add(out, bytes, n / 2, false, (enum zip_effort)(i % 3),
				 &zipped),
			0);
		CHECK_EQ(zip_out_add(out, bytes + n / 2, n - n / 2, true,
				 (enum zip_effort)((i + 1) % 3), &zipped),
			0);
		buf_clear(&plain);
		while (off < zipped.len || full) {
			/* by odd steps, as the line cuts them */
			size_t step = 1 + t_rand() % 5000;
			if (step > zipped.len - off)
				step = zipped.len - off;
			CHECK_EQ(zip_in_add(in, zipped.data + off, step, 1000, &plain,
					 &used, &full),
				0);
			off += used;
		}
		CHECK_EQ(plain.len, n);
		CHECK_MEM(plain.data, bytes, n);
	}
	zip_out_close(out);
	zip_in_close(in);
	buf_fini(&zipped);
	buf_fini(&plain);
}

/* A megabyte of zeros in a kilobyte comes out in the steps that the caller asks for. */
TEST(zip_bomb_is_stepped)
{
	struct zip_out *out;
	struct zip_in *in;
	struct buf zipped = BUF_INIT, plain = BUF_INIT;
	uint8_t *zeros = calloc(1, 1 << 20);
	size_t used;
	bool full;

	CHECK_EQ(zip_out_open(&out), 0);
	CHECK_EQ(zip_in_open(&in), 0);
	CHECK_EQ(zip_out_add(out, zeros, 1 << 20, true, ZIP_BEST, &zipped), 0);
	CHECK(zipped.len < 3000);
	CHECK_EQ(
		zip_in_add(in, zipped.data, zipped.len, 4096, &plain, &used, &full), 0);
	CHECK_EQ(plain.len, 4096);
	CHECK(full);
	zip_out_close(out);
	zip_in_close(in);
	CHECK_EQ(zip_in_open(&in), 0);
	CHECK_EQ(zip_in_add(in, "\xff\xff\xff\xff", 4, 4096, &plain, &used, &full),
		ERR_PROTO);
	zip_in_close(in);
	free(zeros);
	buf_fini(&zipped);
	buf_fini(&plain);
}

/* docs/protocol.md has a row for each message with its number, limit, time and fields. */
static void
row_of(unsigned type, struct buf *b)
{
	static const char *const when[] = { "greet", "held", "fed", "feeds" };
	const struct wire_kind *k = wire_kind(type);
	const char *gap = "";

	buf_clear(b);
	buf_printf(b, "\n| %s | %u | %zu | ", k->name, type, k->max);
	if (k->when == WIRE_LIVE)
		buf_printf(b, "live");
	for (unsigned i = 0; i < 4 && k->when != WIRE_LIVE; i++) {
		if ((k->when & 1u << i) != 0) {
			buf_printf(b, "%s%s", gap, when[i]);
			gap = " ";
		}
	}
	buf_printf(b, " |");
	for (const struct rec_field *f = k->fields; f->kind != REC_KIND_END; f++) {
		buf_printf(b, " %s", f->name);
		if (f->kind != REC_KIND_LIST)
			continue;
		gap = "(";
		for (const struct rec_field *g = f->sub; g->kind != REC_KIND_END;
			g++, gap = " ")
			buf_printf(b, "%s%s", gap, g->name);
		buf_printf(b, ")");
	}
	buf_printf(b, " |\n");
}

TEST(the_page_says_what_the_table_says)
{
	static char page[40000];
	struct buf b = BUF_INIT;
	FILE *f = fopen("docs/protocol.md", "r");

	CHECK(f != NULL);
	size_t n = fread(page, 1, sizeof(page) - 1, f);
	fclose(f);
	page[n] = '\0';
	for (unsigned type = 1; type < WIRE_TYPES; type++) {
		row_of(type, &b);
		if (strstr(page, buf_str(&b)) == NULL)
			t_fail(__FILE__, __LINE__, "no such row: %s", buf_str(&b));
	}
	for (unsigned code = 0; code < WIRE_BYE_CODES; code++) {
		buf_clear(&b);
		buf_printf(&b, "\n| %u | %s |\n", code, wire_bye_text(code));
		if (strstr(page, buf_str(&b)) == NULL)
			t_fail(__FILE__, __LINE__, "no such row: %s", buf_str(&b));
	}
	buf_fini(&b);
}

T_MAIN
