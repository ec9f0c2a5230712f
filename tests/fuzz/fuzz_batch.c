/*
 * fuzz_batch.c - any bytes as a batch: one that is taken says the same after it was encoded and
 * decoded once more, and its front alone reads the same.
 */
#include "meta/batch.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct buf one = BUF_INIT, two = BUF_INIT, text = BUF_INIT, again = BUF_INIT;
	struct batch b, c;

	if (batch_decode(p, n, &b) != 0)
		return 0;
	if (batch_peek(p, n, &c) != 0 || strcmp(b.dir, c.dir) != 0 ||
		strcmp(b.uniqueid, c.uniqueid) != 0 || b.flags != c.flags)
		abort();
	batch_fini(&c);
	if (batch_encode(&b, &one) != 0 || batch_decode(one.data, one.len, &c) != 0 ||
		batch_encode(&c, &two) != 0)
		abort();
	batch_print(&b, &text);
	batch_print(&c, &again);
	if (one.len != two.len || memcmp(one.data, two.data, one.len) != 0 ||
		text.len != again.len || memcmp(text.data, again.data, text.len) != 0 ||
		batch_removes(&b) != batch_removes(&c))
		abort();
	batch_fini(&b);
	batch_fini(&c);
	buf_fini(&one);
	buf_fini(&two);
	buf_fini(&text);
	buf_fini(&again);
	return 0;
}
