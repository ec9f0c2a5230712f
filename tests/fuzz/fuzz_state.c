/*
 * fuzz_state.c - any bytes as a mailbox's state: one that is taken encodes, and then to the same
 * state again.
 */
#include "meta/mbox.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct buf one = BUF_INIT, two = BUF_INIT;
	struct mbox_state s, t;

	if (mbox_state_decode(p, n, &s) != 0)
		return 0;
	if (mbox_state_encode(&s, &one) != 0 ||
		mbox_state_decode(one.data, one.len, &t) != 0 ||
		mbox_state_encode(&t, &two) != 0 || one.len != two.len ||
		memcmp(one.data, two.data, one.len) != 0 ||
		!sum_eq(mbox_sum_total(&s.sum), mbox_sum_total(&t.sum)) ||
		strcmp(s.uniqueid, t.uniqueid) != 0)
		abort();
	buf_fini(&one);
	buf_fini(&two);
	return 0;
}
