/* A history of epochs as a peer sends it: what decodes, encodes to the same bytes. */
#include "meta/base/buf.h"
#include "sync/epoch.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pos last = { 2, 1, 50 };
	struct buf b = BUF_INIT;
	struct epoch_line l;

	if (epoch_decode(data, size, &l) == 0) {
		if (epoch_encode(&l, &b) != 0 || b.len != size ||
			memcmp(b.data, data, size) != 0)
			abort();
		if (epoch_compare(&l, last, &l, last, NULL) != EPOCH_SAME)
			abort();
	}
	buf_fini(&b);
	return 0;
}
