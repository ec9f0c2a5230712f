/*
 * How it works: a record is ten counted items, each padded with zeros to four bytes, so its length
 * follows from its own words. Reading from a file starts with a piece that holds most records
 * whole and asks for more only when an item goes beyond it.
 */
#include "meta/cache.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define FIRST_PIECE 8192

/* Walks the items. False if n is too short; then *len_out is a length that is surely needed. */
static bool
measure(const uint8_t *p, size_t n, size_t *len_out)
{
	size_t at = 0;

	for (int item = 0; item < CACHE_ITEMS; item++) {
		if (n - at < 4) {
			*len_out = at + 4;
			return false;
		}
		size_t len = (size_t)p[at] << 24 | (size_t)p[at + 1] << 16 |
			     (size_t)p[at + 2] << 8 | p[at + 3];
		size_t padded = (len + 3) & ~(size_t)3;
		at += 4;
		if (padded > n - at) {
			*len_out = at + padded;
			return false;
		}
		at += padded;
	}
	*len_out = at;
	return true;
}

static bool
padding_is_zero(const uint8_t *p)
{
	for (int item = 0; item < CACHE_ITEMS; item++) {
		size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 |
			     (size_t)p[2] << 8 | p[3];
		p += 4 + len;
		for (; len % 4 != 0; len++)
			if (*p++ != 0)
				return false;
	}
	return true;
}

int
cache_record_length(const void *p, size_t n, size_t *len_out)
{
	if (measure(p, n, len_out) && *len_out <= CACHE_MAX_RECORD &&
		padding_is_zero(p))
		return 0;
	*len_out = 0;
	return ERR_MANGLED;
}

/* Reads at least need bytes, ERR_MANGLED if the file ends before, and not more than fit. */
static int
read_more(int fd, uint64_t offset, uint8_t *p, size_t *have, size_t need, size_t cap)
{
	while (*have < need) {
		ssize_t got =
			pread(fd, p + *have, cap - *have, (off_t)(offset + *have));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return ERR_IO;
		if (got == 0)
			return ERR_MANGLED;
		*have += (size_t)got;
	}
	return 0;
}

int
cache_record_read(
	int fd, uint64_t offset, uint32_t crc, uint8_t **out_p, size_t *len_out)
{
	size_t cap = FIRST_PIECE, have = 0, len = 0;
	uint8_t *p = NULL;
	int rc = ERR_MANGLED;

	*out_p = NULL;
	*len_out = 0;
	/* Before 4 is the generation word; beyond 48 bits no index can point. */
	if (offset < 4 || offset >> 48 != 0)
		goto out;
	rc = ERR_NOMEM;
	if ((p = malloc(cap)) == NULL)
		goto out;
	while (!measure(p, have, &len)) {
		rc = ERR_MANGLED;
		if (len > CACHE_MAX_RECORD)
			goto out;
		if (len > cap) {
			uint8_t *grown = realloc(p, len + FIRST_PIECE);
			rc = ERR_NOMEM;
			if (grown == NULL)
				goto out;
			p = grown;
			cap = len + FIRST_PIECE;
		}
		rc = read_more(fd, offset, p, &have, len, cap);
		if (rc != 0)
			goto out;
	}
	rc = ERR_MANGLED;
	if (len > CACHE_MAX_RECORD || !padding_is_zero(p))
		goto out;
	rc = ERR_CHECKSUM;
	if (crc != 0 && hash_crc32(0, p, len) != crc)
		goto out;
	rc = 0;
	*out_p = p;
	*len_out = len;
	p = NULL;
out:
	free(p);
	return rc;
}
