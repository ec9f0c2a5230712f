/*
 * hash.h - SHA-1 (message GUIDs), SHA-256 (sums, fingerprints), CRC-32 (Cyrus's files).
 *
 * The only users of libcrypto's hashes and zlib's crc32. Threads: any; a struct hash_sha1
 * belongs to one.
 */
#ifndef META_BASE_HASH_H
#define META_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define SHA1_LEN 20
#define SHA256_LEN 32

/* CRC-32/ISO-HDLC of n bytes, continuing from crc (0 to begin). */
uint32_t hash_crc32(uint32_t crc, const void *p, size_t n);

void hash_sha1(const void *p, size_t n, uint8_t out[SHA1_LEN]);
void hash_sha256(const void *p, size_t n, uint8_t out[SHA256_LEN]);

/* SHA-1 of a stream. begin returns NULL when memory is short; end frees the state. */
struct hash_sha1;
struct hash_sha1 *hash_sha1_begin(void);
void hash_sha1_add(struct hash_sha1 *h, const void *p, size_t n);
void hash_sha1_end(struct hash_sha1 *h, uint8_t out[SHA1_LEN]);

/* SHA-1 and size of the whole file behind fd (pread, the offset is not moved). 0 or ERR_IO. */
int hash_sha1_fd(int fd, uint8_t out[SHA1_LEN], uint64_t *size_out);

/* n bytes as lower case hex and a NUL: 2n+1 bytes at out. */
void hash_hex(const void *p, size_t n, char *out);
/* The inverse; 0 or ERR_MANGLED if text is not exactly 2n hex digits. */
int hash_unhex(const char *text, void *out, size_t n);

#endif
