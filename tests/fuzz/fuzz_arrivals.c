/*
 * fuzz_arrivals.c - any bytes as a piece of the log of arrivals, as they are, or cut into records
 * whose sums are right: what is handed out lies within them, in order.
 */
#include "meta/base/cur.h"
#include "sync/arrivals.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static char folder[] = "/tmp/fuzz-arrivals-XXXXXX";
static size_t total;
static volatile uint8_t seen;

static void
cleanup(void)
{
	char path[60];

	snprintf(path, sizeof(path), "%s/arrivals.0", folder);
	unlink(path);
	rmdir(folder);
}

/* Touches every byte, for the sanitizer. */
static int
look(const void *p, size_t n)
{
	if (n > total)
		abort();
	for (size_t i = 0; i < n; i++)
		seen = (uint8_t)(seen + ((const uint8_t *)p)[i]);
	return 0;
}

static int
staged(void *arg, const uint8_t guid[SHA1_LEN])
{
	(void)arg;
	return look(guid, SHA1_LEN);
}

static int
body(void *arg, const uint8_t guid[SHA1_LEN], const void *p, size_t n)
{
	(void)arg;
	return look(guid, SHA1_LEN) | look(p, n);
}

static int
row(void *arg, const struct inbox_item *item)
{
	struct pos *last = arg;

	if (pos_cmp(item->pos, (struct pos){ 0, 0, 0 }) <= 0)
		abort(); /* not above what is applied */
	*last = item->pos;
	return look(item->dir, strlen(item->dir)) | look(item->bytes, item->n);
}

static void
put_records(struct buf *out, const uint8_t *p, size_t n)
{
	for (size_t len; n > 1; p += len, n -= len) {
		len = *p++;
		n--;
		if (len > n)
			len = n;
		size_t head = out->len;
		wr_be32(out, (uint32_t)len);
		wr_be32(out, 0);
		wr_be64(out, 7);
		buf_put(out, p, len);
		uint32_t crc = hash_crc32(0, out->data + head + 8, 8 + len);
		for (int i = 0; i < 4; i++)
			out->data[head + 4 + (size_t)i] =
				(uint8_t)(crc >> (24 - 8 * i));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const struct arrivals_found found = { staged, body, row };
	static int at = -1;
	struct buf file = BUF_INIT;
	struct pos last = { 0, 0, 0 };
	struct arrivals *a;
	char path[60];

	if (at < 0) {
		if (mkdtemp(folder) == NULL)
			abort();
		atexit(cleanup);
		snprintf(path, sizeof(path), "%s/arrivals.0", folder);
		at = open(path, O_RDWR | O_CREAT, 0600);
	}
	if (n == 0)
		return 0;
	if (p[0] & 1)
		put_records(&file, p + 1, n - 1);
	else
		buf_put(&file, p + 1, n - 1);
	total = file.len;
	if (ftruncate(at, 0) != 0 ||
		pwrite(at, buf_str(&file), total, 0) != (ssize_t)total)
		abort();
	if (arrivals_open(folder, &a) == 0) {
		(void)arrivals_load(a, (struct pos){ 0, 0, 0 }, &found, &last);
		arrivals_close(a);
	}
	buf_fini(&file);
	return 0;
}
