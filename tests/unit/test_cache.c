#include "meta/base/buf.h"
#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/cache.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A record whose items have these lengths. */
static void
put_record(struct buf *b, const size_t lengths[CACHE_ITEMS])
{
	for (int i = 0; i < CACHE_ITEMS; i++) {
		wr_be32(b, (uint32_t)lengths[i]);
		for (size_t k = 0; k < lengths[i]; k++)
			wr_u8(b, (uint8_t)('a' + i));
		for (size_t k = lengths[i]; k % 4 != 0; k++)
			wr_u8(b, 0);
	}
}

static const size_t small[CACHE_ITEMS] = { 5, 0, 4, 3, 2, 1, 0, 0, 7, 8 };

TEST(length)
{
	struct buf b = BUF_INIT;
	size_t len;

	put_record(&b, small);
	CHECK_EQ(b.len, 40 + 8 + 0 + 4 + 4 + 4 + 4 + 0 + 0 + 8 + 8);
	CHECK_EQ(cache_record_length(b.data, b.len, &len), 0);
	CHECK_EQ(len, b.len);
	for (size_t n = 0; n < b.len; n++) {
		uint8_t *exact = malloc(n + 1);
		CHECK(exact != NULL);
		memcpy(exact, b.data, n);
		CHECK_EQ(cache_record_length(exact, n, &len), ERR_MANGLED);
		free(exact);
	}
	b.data[4 + 5] = 1; /* padding of the first item */
	CHECK_EQ(cache_record_length(b.data, b.len, &len), ERR_MANGLED);
	b.data[4 + 5] = 0;
	b.data[0] = 0xff;
	CHECK_EQ(cache_record_length(b.data, b.len, &len), ERR_MANGLED);
	buf_fini(&b);
}

TEST(from_a_file)
{
	static const size_t large[CACHE_ITEMS] = { 9000, 1, 20000, 0, 0, 0, 3, 0, 0,
		9 };
	struct buf b = BUF_INIT;
	char path[300];
	uint8_t *p;
	size_t len, second, end;

	wr_be32(&b, 7);
	put_record(&b, large);
	second = b.len;
	put_record(&b, small);
	end = b.len;
	snprintf(path, sizeof(path), "%s/cache", t_tmpdir());
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0);
	CHECK_EQ(write(fd, b.data, b.len), b.len);

	uint32_t crc = hash_crc32(0, b.data + 4, second - 4);
	CHECK_EQ(cache_record_read(fd, 4, crc, &p, &len), 0);
	CHECK_EQ(len, second - 4);
	CHECK_MEM(p, b.data + 4, len);
	free(p);
	CHECK_EQ(cache_record_read(fd, second, 0, &p, &len), 0);
	CHECK_EQ(len, end - second);
	CHECK_MEM(p, b.data + second, len);
	free(p);
	CHECK_EQ(cache_record_read(fd, 4, crc ^ 1, &p, &len), ERR_CHECKSUM);
	CHECK(p == NULL);
	CHECK_EQ(cache_record_read(fd, 0, 0, &p, &len), ERR_MANGLED);
	CHECK_EQ(cache_record_read(fd, end, 0, &p, &len), ERR_MANGLED);
	CHECK_EQ(cache_record_read(fd, 1ull << 62, 0, &p, &len), ERR_MANGLED);
	CHECK_EQ(cache_record_read(-1, 4, 0, &p, &len), ERR_IO);
	for (size_t n = second - 1; n >= 4; n -= 1 + n / 9) {
		CHECK_EQ(ftruncate(fd, (off_t)n), 0);
		CHECK_EQ(cache_record_read(fd, 4, 0, &p, &len), ERR_MANGLED);
	}
	close(fd);
	buf_fini(&b);
}

T_MAIN
