/* Any bytes as a cache record, in memory and in a file: both ways agree. */
#include "meta/cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static int fd = -1;
	size_t len = 0, read_len = 0;
	uint8_t *record;
	int rc = cache_record_length(p, n, &len);

	if (fd < 0 && (fd = memfd_create("cache", 0)) < 0)
		abort();
	if (ftruncate(fd, 0) != 0 || pwrite(fd, "\0\0\0\1", 4, 0) != 4 ||
		(n > 0 && pwrite(fd, p, n, 4) != (ssize_t)n))
		abort();
	int from_file = cache_record_read(fd, 4, 0, &record, &read_len);
	if (rc != from_file || (rc == 0 && (len > n || len != read_len ||
						   memcmp(p, record, len) != 0)))
		abort();
	free(record);
	return 0;
}
