/*
 * fuzz_dump.c - any bytes as a file of any kind: the first byte is its name, the rest is printed
 * as text and as JSON, to the last byte and no further.
 */
#include "fs/dump.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char *const names[] = { "/none/cyrus.index", "/none/cyrus.cache",
		"/none/cyrus.header", "/none/cyrus.annotations", "/none/x" };
	struct buf file = BUF_INIT, text = BUF_INIT, json = BUF_INIT;

	if (n == 0)
		return 0;
	const char *name = names[p[0] % (sizeof(names) / sizeof(names[0]))];
	file.data = malloc(n);
	file.len = n - 1;
	if (file.data == NULL)
		return 0;
	memcpy(file.data, p + 1, n - 1);
	if (dump_bytes(name, &file, false, &text) !=
		dump_bytes(name, &file, true, &json))
		abort();
	free(file.data);
	buf_fini(&text);
	buf_fini(&json);
	return 0;
}
