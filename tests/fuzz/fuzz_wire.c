/*
 * fuzz_wire.c - any bytes as frames, plain and deflated: a message that is taken stands within
 * its limits and encodes to the bytes that it came from.
 */
#include "sync/wire.h"
#include "sync/zip.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void
take_frames(const uint8_t *p, size_t n)
{
	struct wire_frame f;

	while (wire_peek(p, n, WIRE_PROTO_MAX, &f) == 0 && f.type != 0 &&
		n - f.head >= f.body) {
		const struct wire_kind *k = wire_kind(f.type);
		struct rec_mem mem = { 0 };
		struct buf b = BUF_INIT;
		union wire_any msg;

		if (f.body + 1 > k->max)
			abort();
		if (wire_decode(f.type, WIRE_PROTO_MAX, p + f.head, f.body, &mem,
			    &msg) == 0) {
			if (wire_encode(f.type, WIRE_PROTO_MAX, &msg, &b) != 0)
				abort();
			if (f.type != WIRE_HELLO && f.type != WIRE_BYE &&
				(b.len != f.head + f.body ||
					memcmp(b.data, p, b.len) != 0))
				abort();
		}
		buf_fini(&b);
		rec_mem_fini(&mem);
		p += f.head + f.body;
		n -= f.head + f.body;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct zip_in *in;
	struct buf plain = BUF_INIT;
	size_t used, rounds = 0;
	bool full = true;

	take_frames(p, n);
	if (zip_in_open(&in) != 0)
		return 0;
	while ((n > 0 || full) && rounds++ < 64) {
		if (zip_in_add(in, p, n, 4096, &plain, &used, &full) != 0)
			break;
		p += used;
		n -= used;
	}
	take_frames(plain.data, plain.len);
	buf_fini(&plain);
	zip_in_close(in);
	return 0;
}
