/*
 * The CRC is Cyrus's, however long the text is and wherever it is cut.
 */
#include "meta/base/hash.h"
#include "tests/lib/t.h"

enum { LONGEST = 700 };

/* Bit by bit, as it is defined. */
static uint32_t
plain(const uint8_t *p, size_t n)
{
	uint32_t crc = ~(uint32_t)0;

	while (n-- > 0) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

TEST(a_known_value)
{
	CHECK_EQ(hash_crc32(0, "123456789", 9), 0xcbf43926);
	CHECK_EQ(hash_crc32(0, NULL, 0), 0);
	CHECK_EQ(hash_crc32(0xcbf43926, "", 0), 0xcbf43926);
}

TEST(any_length_and_any_cut)
{
	uint8_t text[LONGEST];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)t_rand();
	for (size_t n = 0; n <= sizeof(text); n++) {
		uint32_t want = plain(text, n);
		size_t cut = n > 0 ? t_rand() % n : 0;
		CHECK_EQ(hash_crc32(0, text, n), want);
		CHECK_EQ(hash_crc32(hash_crc32(0, text, cut), text + cut, n - cut),
			want);
	}
}

T_MAIN
