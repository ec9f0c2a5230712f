/*
 * How it works: the whole file is read, its kind found, and the codec's own walkers print it
 * field by field. The files of a mailbox explain each other: an index takes keyword names from
 * the cyrus.header beside it, a cache is cut into records by the cyrus.index beside it. Neither
 * must be there.
 */
#include "fs/dump.h"
#include "fs/emit.h"
#include "meta/base/err.h"
#include "meta/cache.h"
#include "meta/db.h"
#include "meta/header.h"
#include "meta/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE ((size_t)1 << 30)

static int
read_file(const char *path, struct buf *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return err_from_errno(errno);
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		rc = ERR_USAGE;
	while (rc == 0) {
		uint8_t *at = buf_room(out, 65536);
		if (at == NULL || out->len > MAX_FILE) {
			rc = ERR_LIMIT;
			break;
		}
		ssize_t n = read(fd, at, 65536);
		if (n < 0)
			rc = err_from_errno(errno);
		if (n <= 0)
			break;
		out->len += (size_t)n;
	}
	close(fd);
	return rc;
}

/* Reads name in the folder of path. */
static int
read_beside(const char *path, const char *name, struct buf *out)
{
	const char *slash = strrchr(path, '/');
	int len = slash ? (int)(slash - path) + 1 : 0;
	char *other = NULL;

	if (asprintf(&other, "%.*s%s", len, path, name) < 0)
		return ERR_NOMEM;
	int rc = read_file(other, out);
	free(other);
	return rc;
}

struct bit {
	uint32_t bit;
	const char *name;
};

static const struct bit flag_bits[] = {
	{ INDEX_FLAG_ANSWERED, "\\Answered" },
	{ INDEX_FLAG_FLAGGED, "\\Flagged" },
	{ INDEX_FLAG_DELETED, "\\Deleted" },
	{ INDEX_FLAG_DRAFT, "\\Draft" },
	{ INDEX_FLAG_SEEN, "\\Seen" },
	{ INDEX_FLAG_SNOOZED, "SNOOZED" },
	{ INDEX_FLAG_SPLIT, "SPLIT" },
	{ INDEX_FLAG_NEEDS_CLEANUP, "NEEDS_CLEANUP" },
	{ INDEX_FLAG_ARCHIVED, "ARCHIVED" },
	{ INDEX_FLAG_UNLINKED, "UNLINKED" },
	{ INDEX_FLAG_EXPUNGED, "EXPUNGED" },
	{ 0, NULL },
};

static const struct bit option_bits[] = {
	{ INDEX_OPT_POP3_NEW_UIDL, "POP3_NEW_UIDL" },
	{ INDEX_OPT_SHAREDSEEN, "SHAREDSEEN" },
	{ INDEX_OPT_DUPDELIVER, "DUPDELIVER" },
	{ INDEX_OPT_HAS_ALARMS, "HAS_ALARMS" },
	{ INDEX_OPT_NEEDS_UNLINK, "NEEDS_UNLINK" },
	{ INDEX_OPT_NEEDS_REPACK, "NEEDS_REPACK" },
	{ INDEX_OPT_DELETED, "DELETED" },
	{ 0, NULL },
};

static void
emit_bits(struct emit *e, const char *name, uint32_t bits, const struct bit *table)
{
	struct buf text = BUF_INIT;

	for (; table->name != NULL; table++) {
		if (bits & table->bit)
			buf_printf(&text, "%s%s", text.len ? " " : "", table->name);
		bits &= ~table->bit;
	}
	if (bits != 0)
		buf_printf(&text, "%s0x%x", text.len ? " " : "", bits);
	emit_text(e, name, buf_str(&text));
	buf_fini(&text);
}

static bool
ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && strcmp(s + n - k, end) == 0;
}

static void
emit_field(void *arg, const char *name, uint64_t value, int is_time)
{
	struct emit *e = arg;

	if (is_time)
		emit_time(e, name, value);
	else if (strcmp(name, "options") == 0)
		emit_bits(e, name, (uint32_t)value, option_bits);
	else if (strcmp(name, "flags") == 0)
		emit_bits(e, name, (uint32_t)value, flag_bits);
	else if (ends_with(name, "_crc") || strncmp(name, "sync_", 5) == 0)
		emit_hex(e, name, value, 8);
	else if (strcmp(name, "cid") == 0 || strcmp(name, "basecid") == 0)
		emit_hex(e, name, value, 16);
	else if (strncmp(name, "user_flags", 10) != 0)
		emit_number(e, name, value);
}

static void
emit_keywords(struct emit *e, const struct index_record *r, const struct header *names)
{
	struct buf text = BUF_INIT;

	for (unsigned i = 0; i < INDEX_USER_FLAGS; i++) {
		if (!(r->user_flags[i / 32] >> (i % 32) & 1))
			continue;
		if (names->flags[i] != NULL)
			buf_printf(&text, "%s%s", text.len ? " " : "", names->flags[i]);
		else
			buf_printf(&text, "%s#%u", text.len ? " " : "", i);
	}
	emit_text(e, "keywords", buf_str(&text));
	buf_fini(&text);
}

static void
emit_damage(struct emit *e, int rc)
{
	emit_text(e, "damage", err_text(rc));
}

static int
dump_index(struct emit *e, const char *path, const struct buf *file)
{
	struct buf beside = BUF_INIT;
	struct header names = { .old_form = false };
	struct index_view v;
	struct index_record r;
	char guid[2 * SHA1_LEN + 1];
	int rc = index_view_open(&v, file->data, file->len);

	emit_thing(e, "index", true);
	if (v.header.minor_version != 0)
		index_header_fields(&v.header, emit_field, e);
	if (rc != 0)
		emit_damage(e, rc);
	emit_close(e);
	if (rc != 0)
		return rc;
	if (read_beside(path, "cyrus.header", &beside) == 0 &&
		header_decode(beside.data, beside.len, &names) != 0)
		memset(&names, 0, sizeof(names));
	for (uint32_t i = 0; i < v.header.num_records; i++) {
		int bad = index_view_record(&v, i, &r);
		emit_thing(e, "record", false);
		index_record_fields(v.header.minor_version, &r, emit_field, e);
		emit_keywords(e, &r, &names);
		hash_hex(r.guid, SHA1_LEN, guid);
		emit_text(e, "guid", guid);
		if (bad != 0) {
			emit_damage(e, bad);
			rc = bad;
		}
		emit_close(e);
	}
	header_fini(&names);
	buf_fini(&beside);
	return rc;
}

static int
dump_header(struct emit *e, const struct buf *file)
{
	struct header h;
	int rc = header_decode(file->data, file->len, &h);

	emit_thing(e, "header", true);
	if (rc != 0) {
		emit_damage(e, rc);
		emit_close(e);
		return rc;
	}
	emit_text(e, "form", h.old_form ? "old" : "new");
	emit_text(e, "type", h.type);
	emit_text(e, "name", h.name);
	emit_text(e, "uniqueid", h.uniqueid);
	emit_text(e, "quotaroot", h.quotaroot);
	emit_text(e, "jmapid", h.jmapid);
	emit_hex(e, "crc", hash_crc32(0, file->data, file->len), 8);
	emit_close(e);
	for (size_t i = 0; i < h.n_acl; i++) {
		emit_thing(e, "acl", false);
		emit_text(e, "id", h.acl[i].id);
		emit_text(e, "rights", h.acl[i].rights);
		emit_close(e);
	}
	for (unsigned i = 0; i < HEADER_MAX_FLAGS; i++) {
		if (h.flags[i] == NULL)
			continue;
		emit_thing(e, "keyword", false);
		emit_number(e, "number", i);
		emit_text(e, "name", h.flags[i]);
		emit_close(e);
	}
	header_fini(&h);
	return 0;
}

static const char *const cache_items[CACHE_ITEMS] = { "envelope", "bodystructure",
	"body", "section", "headers", "from", "to", "cc", "bcc", "subject" };

static int
dump_cache_record(struct emit *e, const struct buf *file, uint64_t at,
	const struct index_record *r)
{
	size_t len = 0;
	int rc = at < 4 || at > file->len
			 ? ERR_MANGLED
			 : cache_record_length(file->data + at, file->len - at, &len);

	if (rc == 0 && r != NULL && r->cache_crc != 0 &&
		hash_crc32(0, file->data + at, len) != r->cache_crc)
		rc = ERR_CHECKSUM;
	emit_thing(e, "cache-record", false);
	if (r != NULL)
		emit_number(e, "uid", r->uid);
	emit_number(e, "offset", at);
	emit_number(e, "length", len);
	if (rc != 0)
		emit_damage(e, rc);
	/* 0 unless it is framed as it should be. */
	const uint8_t *p = len > 0 ? file->data + at : NULL;
	for (int i = 0; p != NULL && i < CACHE_ITEMS; i++) {
		size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 |
			   p[3];
		emit_bytes(e, cache_items[i], p + 4, n);
		p += 4 + ((n + 3) & ~(size_t)3);
	}
	emit_close(e);
	return rc;
}

static int
dump_cache(struct emit *e, const char *path, const struct buf *file)
{
	struct buf beside = BUF_INIT;
	struct index_view v;
	struct index_record r;
	size_t at = 4, len;
	int rc = 0;

	if (file->len < 4)
		return ERR_MANGLED;
	emit_thing(e, "cache", false);
	emit_number(e, "generation",
		(uint32_t)file->data[0] << 24 | (uint32_t)file->data[1] << 16 |
			(uint32_t)file->data[2] << 8 | file->data[3]);
	emit_number(e, "size", file->len);
	emit_close(e);
	if (read_beside(path, "cyrus.index", &beside) == 0 &&
		index_view_open(&v, beside.data, beside.len) == 0) {
		for (uint32_t i = 0; i < v.header.num_records; i++) {
			if (index_view_record(&v, i, &r) != 0 ||
				(r.flags & INDEX_FLAG_UNLINKED))
				continue;
			int bad = dump_cache_record(e, file, r.cache_offset, &r);
			rc = bad ? bad : rc;
		}
	} else {
		for (; rc == 0 && at < file->len; at += len) {
			rc = dump_cache_record(e, file, at, NULL);
			if (rc == 0)
				rc = cache_record_length(
					file->data + at, file->len - at, &len);
		}
	}
	buf_fini(&beside);
	return rc;
}

static int
dump_annot(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct emit *e = arg;
	struct db_annot a;
	int rc = db_annot_decode(key, klen, val, vlen, &a);

	emit_thing(e, "annotation", false);
	if (rc == 0) {
		emit_number(e, "uid", a.uid);
		emit_text(e, "entry", a.entry);
		emit_text(e, "userid", a.userid);
		emit_bytes(e, "value", a.value, a.value_len);
		emit_number(e, "modseq", a.modseq);
		emit_number(e, "flags", a.flags);
	} else {
		emit_bytes(e, "key", key, klen);
		emit_damage(e, rc);
	}
	emit_close(e);
	return rc;
}

static int
dump_pair(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct emit *e = arg;

	emit_thing(e, "pair", false);
	emit_bytes(e, "key", key, klen);
	emit_bytes(e, "value", val, vlen);
	emit_close(e);
	return 0;
}

static bool
begins(const struct buf *file, const char *magic, size_t n)
{
	return file->len >= n && memcmp(file->data, magic, n) == 0;
}

static int
dump_any(struct emit *e, const char *path, const struct buf *file)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	struct index_header h;

	if (strncmp(name, "cyrus.cache", 11) == 0)
		return dump_cache(e, path, file);
	if (strncmp(name, "cyrus.annotations", 17) == 0)
		return db_twoskip_walk(file->data, file->len, dump_annot, e);
	if (strncmp(name, "cyrus.header", 12) == 0 || begins(file,
							      "\xa1\x02\x8b\x0d"
							      "Cyrus mailbox",
							      17))
		return dump_header(e, file);
	if (begins(file, "\xa1\x02\x8b\x0d", 4))
		return db_twoskip_walk(file->data, file->len, dump_pair, e);
	if (strncmp(name, "cyrus.index", 11) == 0 ||
		index_header_decode(file->data, file->len, &h) == 0)
		return dump_index(e, path, file);
	if (begins(file, "%(", 2) ||
		(file->len > 0 && file->data[0] >= '0' && file->data[0] <= '9' &&
			memchr(file->data, '\t', file->len) == NULL))
		return db_quotalegacy_walk(file->data, file->len, dump_pair, e);
	return db_flat_walk(file->data, file->len, dump_pair, e);
}

int
dump_bytes(const char *path, const struct buf *file, bool json, struct buf *out)
{
	struct emit e;

	emit_begin(&e, out, json);
	int rc = dump_any(&e, path, file);
	emit_end(&e);
	return rc != 0 ? rc : buf_ok(out);
}

int
dump_file(const char *path, bool json, struct buf *out)
{
	struct buf file = BUF_INIT;
	int rc = read_file(path, &file);

	if (rc == 0)
		rc = dump_bytes(path, &file, json, out);
	buf_fini(&file);
	return rc;
}
