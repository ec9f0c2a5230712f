/* Any bytes as an annotation: one byte says how long the key is. */
#include "meta/base/buf.h"
#include "meta/db.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct buf k = BUF_INIT, v = BUF_INIT;
	struct db_annot a, b;

	if (n == 0)
		return 0;
	size_t klen = p[0] < n ? p[0] : n - 1;
	if (db_annot_decode(p + 1, klen, p + 1 + klen, n - 1 - klen, &a) != 0)
		return 0;
	db_annot_encode(&a, &k, &v);
	if (k.len != klen || memcmp(k.data, p + 1, klen) != 0)
		abort();
	if (db_annot_decode(k.data, k.len, v.data, v.len, &b) != 0 || a.uid != b.uid ||
		a.value_len != b.value_len || a.modseq != b.modseq ||
		a.flags != b.flags || memcmp(a.value, b.value, a.value_len) != 0)
		abort();
	buf_fini(&k);
	buf_fini(&v);
	return 0;
}
