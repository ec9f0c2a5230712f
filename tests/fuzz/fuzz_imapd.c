/*
 * fuzz_imapd.c - any bytes as imapd.conf: either all that is asked for is there, or one line says what
 * is wrong with it.
 */
#include "meta/base/err.h"
#include "meta/imapd.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static int fd = -1;
	char path[40], why[200];
	struct imapd c;

	if (fd < 0 && (fd = memfd_create("imapd.conf", 0)) < 0)
		abort();
	if (ftruncate(fd, 0) != 0 || pwrite(fd, p, n, 0) != (ssize_t)n)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int rc = imapd_load(path, &c, why, sizeof(why));
	if ((rc != 0 && rc != ERR_CONF) || (rc != 0) != (why[0] != '\0') ||
		strchr(why, '\n') != NULL)
		abort();
	if (rc == 0 && (c.configdirectory == NULL || c.mailboxes == NULL ||
			       c.annotations == NULL))
		abort();
	for (size_t i = 0; rc == 0 && i < c.n_partitions; i++)
		if (c.partitions[i].name == NULL || c.partitions[i].path == NULL)
			abort();
	if (rc == 0)
		imapd_fini(&c);
	return 0;
}
