/*
 * fuzz_rec.c - any bytes through a table with every kind of field; what decodes must encode to
 * the same bytes, for there is one form only.
 */
#include "meta/base/rec.h"

#include <stdlib.h>

struct item {
	uint16_t a;
	const char *s;
};

struct all {
	bool yes;
	uint8_t small;
	uint64_t huge;
	uint8_t fixed[3];
	const char *s;
	struct rec_blob blob;
	struct rec_list list;
};

static const struct rec_field item_fields[] = { REC_UINT(struct item, a, UINT64_MAX),
	REC_STR(struct item, s, 5), REC_END };
static const struct rec_field all_fields[] = { REC_BOOL(struct all, yes),
	REC_U8(struct all, small), REC_U64(struct all, huge),
	REC_FIXED(struct all, fixed), REC_STR(struct all, s, 9),
	REC_BLOB(struct all, blob, 1000),
	REC_LIST(struct all, list, 100, item_fields, struct item), REC_END };

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct rd r = rd_over(p, n);
	struct rec_mem mem = { .max = 1 << 20 };
	struct buf b = BUF_INIT;
	struct all a;

	if (rec_decode(all_fields, &r, &mem, &a) == 0) {
		size_t used = n - rd_left(&r);
		if (rec_encode(all_fields, &a, &b) != 0 || b.len != used ||
			memcmp(b.data, p, used) != 0 ||
			rec_size(all_fields, &a) != used)
			abort();
		buf_clear(&b);
		rec_print(all_fields, &a, &b);
		rec_json(all_fields, &a, &b);
	}
	buf_fini(&b);
	rec_mem_fini(&mem);
	return 0;
}
