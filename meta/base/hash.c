/*
 * hash.c - libcrypto's digests and zlib's CRC. A digest's context is kept for each thread, for
 * making one costs more than a short text; it ends with the thread.
 */
#include "meta/base/hash.h"
#include "meta/base/err.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* ---- CRC ---- */

/* Below this zlib's way of taking many bytes at once has not begun, or does not pay. */
#define CRC_SHORT 256

/* crc_of[k][b]: what byte b does to the CRC with k bytes behind it. */
static uint32_t crc_of[8][256];

static void __attribute__((constructor)) make_tables(void)
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t crc = b;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		crc_of[0][b] = crc;
	}
	for (int k = 1; k < 8; k++)
		for (uint32_t b = 0; b < 256; b++)
			crc_of[k][b] = crc_of[k - 1][b] >> 8 ^
				       crc_of[0][crc_of[k - 1][b] & 0xff];
}

/* Records, and the short texts of Cyrus's own sums, are most of what is asked for. */
static uint32_t
crc_short(uint32_t crc, const uint8_t *p, size_t n)
{
	crc = ~crc;
	for (; n >= 8; p += 8, n -= 8) {
		uint32_t x = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 |
					   (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
		crc = crc_of[7][x & 0xff] ^ crc_of[6][x >> 8 & 0xff] ^
		      crc_of[5][x >> 16 & 0xff] ^ crc_of[4][x >> 24] ^ crc_of[3][p[4]] ^
		      crc_of[2][p[5]] ^ crc_of[1][p[6]] ^ crc_of[0][p[7]];
	}
	for (; n > 0; n--)
		crc = crc >> 8 ^ crc_of[0][(crc ^ *p++) & 0xff];
	return ~crc;
}

uint32_t
hash_crc32(uint32_t crc, const void *p, size_t n)
{
	return n < CRC_SHORT ? crc_short(crc, p, n) : (uint32_t)crc32_z(crc, p, n);
}

/* ---- digests ---- */

/* Fetched once: an implicit fetch at every digest costs more than a small digest itself. */
static EVP_MD *md_sha1, *md_sha256;
/* A thread's context, given back when the thread ends. */
static pthread_key_t ctx_key;

static void
free_ctx(void *ctx)
{
	EVP_MD_CTX_free(ctx);
}

static void __attribute__((constructor)) fetch_digests(void)
{
	md_sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
	md_sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (md_sha1 == NULL || md_sha256 == NULL ||
		pthread_key_create(&ctx_key, free_ctx) != 0)
		abort();
}

static void
digest(const EVP_MD *md, const void *p, size_t n, uint8_t *out)
{
	static _Thread_local EVP_MD_CTX *ctx;

	if (ctx == NULL && (ctx = EVP_MD_CTX_new()) != NULL)
		pthread_setspecific(ctx_key, ctx);
	/* These fail only when memory is short at the first use in a thread. */
	if (ctx == NULL || !EVP_DigestInit_ex2(ctx, md, NULL) ||
		!EVP_DigestUpdate(ctx, p, n) || !EVP_DigestFinal_ex(ctx, out, NULL))
		abort();
}

void
hash_sha1(const void *p, size_t n, uint8_t out[SHA1_LEN])
{
	digest(md_sha1, p, n, out);
}

void
hash_sha256(const void *p, size_t n, uint8_t out[SHA256_LEN])
{
	digest(md_sha256, p, n, out);
}

struct hash_sha1 *
hash_sha1_begin(void)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (ctx != NULL && !EVP_DigestInit_ex2(ctx, md_sha1, NULL)) {
		EVP_MD_CTX_free(ctx);
		ctx = NULL;
	}
	return (struct hash_sha1 *)ctx;
}

void
hash_sha1_add(struct hash_sha1 *h, const void *p, size_t n)
{
	EVP_DigestUpdate((EVP_MD_CTX *)h, p, n);
}

void
hash_sha1_end(struct hash_sha1 *h, uint8_t out[SHA1_LEN])
{
	EVP_DigestFinal_ex((EVP_MD_CTX *)h, out, NULL);
	EVP_MD_CTX_free((EVP_MD_CTX *)h);
}

int
hash_sha1_fd(int fd, uint8_t out[SHA1_LEN], uint64_t *size_out)
{
	struct hash_sha1 *h = hash_sha1_begin();
	uint8_t chunk[65536];
	off_t at = 0;
	ssize_t n;

	if (h == NULL)
		return ERR_NOMEM;
	/* Less than was asked for is the end of a file. */
	do {
		n = pread(fd, chunk, sizeof(chunk), at);
		if (n > 0) {
			hash_sha1_add(h, chunk, (size_t)n);
			at += n;
		}
	} while (n == (ssize_t)sizeof(chunk));
	hash_sha1_end(h, out);
	if (n < 0)
		return ERR_IO;
	if (size_out != NULL)
		*size_out = (uint64_t)at;
	return 0;
}

void
hash_hex(const void *p, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *bytes = p;

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * n] = '\0';
}

static int
nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int
hash_unhex(const char *text, void *out, size_t n)
{
	uint8_t *bytes = out;

	if (strlen(text) != 2 * n)
		return ERR_MANGLED;
	for (size_t i = 0; i < n; i++) {
		int hi = nibble(text[2 * i]), lo = nibble(text[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return ERR_MANGLED;
		bytes[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}
