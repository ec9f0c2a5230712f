/* Any bytes as cyrus.index: no crash, and what decodes encodes to bytes that decode the same. */
#include "meta/index.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void
count(void *arg, const char *name, uint64_t value, int is_time)
{
	*(uint64_t *)arg += strlen(name) + value + (uint64_t)is_time;
}

/* The fuzzer cannot guess a CRC, so every second input gets right ones. */
static void
seal(uint8_t *p, size_t n)
{
	uint32_t minor = n >= 12 ? p[11] : 0;
	size_t header = index_header_size(minor), record = index_record_size(minor);

	if (header == 0 || n < header)
		return;
	memset(p + 4, 0, 7);
	p[12] = p[13] = p[14] = p[16] = p[17] = p[18] = 0;
	p[15] = (uint8_t)header;
	p[19] = (uint8_t)record;
	if (minor == 10)
		return;
	size_t size = header;
	for (size_t at = 0; at + size <= n; at += size, size = record) {
		uint32_t crc = hash_crc32(0, p + at, size - 4);
		for (int i = 0; i < 4; i++)
			p[at + size - 4 + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	uint8_t *copy = malloc(n + 1), again[INDEX_MAX_HEADER];
	struct index_header h;
	struct index_record r, back;
	struct index_view v;
	uint64_t sum = 0;
	uint32_t at;

	if (copy == NULL)
		return 0;
	memcpy(copy, p, n);
	if (n > 0 && (p[n - 1] & 1))
		seal(copy, n);
	if (index_view_open(&v, copy, n) == 0) {
		uint32_t minor = v.header.minor_version;
		index_header_fields(&v.header, count, &sum);
		if (index_header_encode(&v.header, again) != 0 ||
			index_header_decode(again, sizeof(again), &h) != 0 ||
			memcmp(&h, &v.header, sizeof(h)) != 0)
			abort();
		for (uint32_t i = 0; i < v.header.num_records; i++) {
			if (index_view_record(&v, i, &r) != 0)
				continue;
			if (index_record_encode(minor, &r, again) != 0 ||
				index_record_decode(minor, again, &back) != 0 ||
				memcmp(&r, &back, sizeof(r)) != 0)
				abort();
			index_record_fields(minor, &r, count, &sum);
			sum += index_crc_virtual(minor, &r);
			index_view_find(&v, r.uid, &at);
			if (at > v.header.num_records)
				abort();
		}
	}
	free(copy);
	return 0;
}
