/* Any bytes as a flat file. */
#include "meta/db.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static int
look(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	unsigned *sum = arg;

	if (klen == 0)
		abort();
	for (size_t i = 0; i < klen; i++)
		*sum += key[i];
	for (size_t i = 0; i < vlen; i++)
		*sum += val[i];
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	unsigned sum = 0;

	db_flat_walk(p, n, look, &sum);
	return 0;
}
