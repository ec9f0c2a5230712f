/* Any bytes as a quota file. */
#include "meta/db.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static int
look(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	unsigned *sum = arg;

	if (klen == 0 || vlen == 0)
		abort();
	*sum += key[0] + key[klen - 1] + val[0] + val[vlen - 1];
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	unsigned sum = 0;

	db_quotalegacy_walk(p, n, look, &sum);
	return 0;
}
