/*
 * cache.h - where a cyrus.cache record begins and ends (F3). Carried, not interpreted.
 */
#ifndef META_CACHE_H
#define META_CACHE_H

#include <stddef.h>
#include <stdint.h>

#define CACHE_ITEMS 10
#define CACHE_MAX_RECORD (16u << 20)

/* Length of the record at p (n bytes available): ten items, padding zero. ERR_MANGLED, and 0
 * in *len_out: no length that was read is handed on. */
int cache_record_length(const void *p, size_t n, size_t *len_out);
/* Reads the record at offset of fd, checks framing and crc (unless crc is 0). The caller frees
 * *out_p. ERR_MANGLED, ERR_CHECKSUM, ERR_IO. */
int cache_record_read(
	int fd, uint64_t offset, uint32_t crc, uint8_t **out_p, size_t *len_out);

#endif
