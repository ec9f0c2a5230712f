/*
 * How it works: a record that is not unlinked has a file of its size, whose SHA-1 is its GUID,
 * and, unless the cache is not known, a cache record whose CRC is in the index. The body is read
 * once, for the SHA-1 and for the first empty line. Archived messages lie on another partition
 * and are left alone.
 */
#include "meta/fsck_own.h"
#include "meta/base/err.h"
#include "meta/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_CACHE_VERSION 14u
#define NS_PER_SECOND 1000000000u

/* Where the header of a message ends: after the first empty line. */
struct header_end {
	uint64_t at; /* bytes seen, until found */
	bool found, line_empty, cr;
};

static void
look_for_end(struct header_end *e, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n && !e->found; i++) {
		e->at++;
		if (p[i] == '\n') {
			e->found = e->line_empty;
			e->line_empty = true;
			e->cr = false;
		} else if (p[i] == '\r' && e->line_empty && !e->cr) {
			e->cr = true;
		} else {
			e->line_empty = false;
		}
	}
}

static int
check_content(struct fsck *f, const struct index_record *r, int fd)
{
	struct header_end end = { .line_empty = true };
	struct hash_sha1 *hash = hash_sha1_begin();
	uint8_t chunk[65536], guid[SHA1_LEN];
	char hex[2 * SHA1_LEN + 1];
	ssize_t n;

	if (hash == NULL)
		return ERR_NOMEM;
	while ((n = read(fd, chunk, sizeof(chunk))) > 0) {
		hash_sha1_add(hash, chunk, (size_t)n);
		look_for_end(&end, chunk, (size_t)n);
		f->counts->bytes += (uint64_t)n;
	}
	hash_sha1_end(hash, guid);
	if (n < 0) {
		fsck_tell(f, FSCK_MUST, r->uid, "message-read", FSCK_REREAD,
			"cannot be read: %s", strerror(errno));
		return 0;
	}
	hash_hex(guid, SHA1_LEN, hex);
	if (memcmp(guid, r->guid, SHA1_LEN) != 0)
		fsck_tell(f, FSCK_MUST, r->uid, "guid", FSCK_REREAD,
			"the SHA-1 of the message is %s, not its GUID", hex);
	else if (end.at != r->header_size)
		fsck_tell(f, FSCK_SHOULD, r->uid, "header-size", FSCK_REREAD,
			"the message's header has %" PRIu64
			" bytes, the record says %u",
			end.at, r->header_size);
	return 0;
}

static int
check_message(struct fsck *f, const struct index_record *r)
{
	char name[16];
	struct stat st;
	int rc = 0;

	snprintf(name, sizeof(name), "%u.", r->uid);
	int fd = openat(f->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	bool unlinked = r->flags & INDEX_FLAG_UNLINKED;
	if (fd < 0) {
		int err = errno;
		if (unlinked && err == ENOENT)
			return 0;
		if (err == EMFILE || err == ENFILE || err == ENOMEM)
			return err_from_errno(err);
		fsck_tell(f, FSCK_MUST, r->uid,
			err == ENOENT ? "message-missing" : "message-kind", FSCK_REREAD,
			"the file %s: %s", name, strerror(err));
		return 0;
	}
	/* With the option set, the file waits for the next clean-up. */
	bool waits = f->v.header.options & INDEX_OPT_NEEDS_UNLINK;
	if (unlinked && waits) {
		rc = 0;
	} else if (unlinked) {
		fsck_tell(f, FSCK_SHOULD, r->uid, "message-unlinked", FSCK_RECONSTRUCT,
			"is unlinked, but its file is still there");
	} else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		fsck_tell(f, FSCK_MUST, r->uid, "message-kind", FSCK_REREAD,
			"%s is not a regular file", name);
	} else {
		f->counts->messages++;
		if ((uint64_t)st.st_size != r->size)
			fsck_tell(f, FSCK_MUST, r->uid, "message-size", FSCK_REREAD,
				"the file has %" PRIu64
				" bytes, the record says %" PRIu64,
				(uint64_t)st.st_size, r->size);
		else if (f->options->bodies)
			rc = check_content(f, r, fd);
		if (f->options->times &&
			(uint64_t)st.st_mtime != r->internaldate / NS_PER_SECOND)
			fsck_tell(f, FSCK_SHOULD, r->uid, "message-time",
				FSCK_RECONSTRUCT,
				"the file is of %" PRIu64 ", the record of %" PRIu64,
				(uint64_t)st.st_mtime, r->internaldate / NS_PER_SECOND);
	}
	close(fd);
	return rc;
}

static int
check_cache(struct fsck *f, const struct index_record *r, int cache_fd)
{
	bool has_crc = f->v.header.minor_version >= 12;
	uint8_t *p;
	size_t len;

	/* Unlinked ones are never parsed again, and a CRC of 0 is "not known". */
	if ((r->flags & INDEX_FLAG_UNLINKED) || (has_crc && r->cache_crc == 0))
		return 0;
	if (r->cache_version > MAX_CACHE_VERSION)
		fsck_tell(f, FSCK_SHOULD, r->uid, "cache-version", FSCK_RECONSTRUCT,
			"cache version %u is not known", r->cache_version);
	int rc = ERR_MANGLED;
	if (cache_fd >= 0)
		rc = cache_record_read(
			cache_fd, r->cache_offset, r->cache_crc, &p, &len);
	if (rc == 0) {
		free(p);
		return 0;
	}
	if (rc == ERR_NOMEM)
		return rc;
	if (cache_fd < 0)
		fsck_tell(f, FSCK_MUST, r->uid, "cache-missing", FSCK_RECONSTRUCT,
			"there is no cyrus.cache");
	else
		fsck_tell(f, FSCK_MUST, r->uid,
			rc == ERR_CHECKSUM ? "cache-crc" : "cache-record",
			FSCK_RECONSTRUCT,
			rc == ERR_CHECKSUM ? "the CRC of the cache record is wrong"
					   : "no cache record at %" PRIu64,
			r->cache_offset);
	return 0;
}

int
fsck_body_check(struct fsck *f, const struct index_record *r, int cache_fd)
{
	static const uint8_t none[SHA1_LEN];

	if (memcmp(r->guid, none, SHA1_LEN) == 0)
		fsck_tell(f, FSCK_MUST, r->uid, "guid", FSCK_REREAD, "has no GUID");
	if (r->flags & INDEX_FLAG_ARCHIVED)
		return 0;
	int rc = check_message(f, r);
	return rc ? rc : check_cache(f, r, cache_fd);
}
