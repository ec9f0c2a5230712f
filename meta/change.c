/*
 * change.c - the fields of a record and of the index header that a change may state, in two
 * tables. One walker each compares, copies, encodes, decodes and prints.
 *
 * The number of a row is its bit in a mask and part of the format: rows are only ever added at
 * the end. The first rows are those of the commonest changes, so that their mask is one byte.
 *
 * How a value is written:
 *   NUM32, NUM64  varint
 *   BITS          varint of the word rotated left by 6, which brings both ends of a flag word
 *                 together: two bytes instead of five
 *   RAW32, RAW64  big-endian; for what looks random
 *   GUID          20 bytes
 *   UID, MODSEQ   zigzag difference to the last one stated in the batch
 *   TIME          the same in seconds, times two, plus one if nanoseconds follow. Most times of
 *                 a batch are one second, so the difference is one byte
 */
#include "meta/batch.h"

#include "meta/base/cur.h"

#include <inttypes.h>

#define NS 1000000000u

enum kind { NUM32, NUM64, BITS, RAW32, RAW64, GUID, UID, MODSEQ, TIME };

struct field {
	const char *name;
	size_t at;
	enum kind kind;
};

#define R(name, kind) \
	{ \
#name, offsetof(struct index_record, name), kind \
	}
#define H(name, kind) \
	{ \
#name, offsetof(struct index_header, name), kind \
	}

static const struct field record_fields[] = {
	R(modseq, MODSEQ),
	R(last_updated, TIME),
	R(flags, BITS),
	R(user_flags[0], NUM32),
	R(user_flags[1], NUM32),
	R(user_flags[2], NUM32),
	R(user_flags[3], NUM32),
	R(guid, GUID),
	R(internaldate, TIME),
	R(sentdate, TIME),
	R(size, NUM64),
	R(header_size, NUM32),
	R(gmtime, TIME),
	R(savedate, TIME),
	R(cid, RAW64),
	R(createdmodseq, MODSEQ),
	R(basecid, RAW64),
	R(cache_version, NUM32),
	R(cache_crc, RAW32),
	R(content_lines, NUM32),
};

static const struct field header_fields[] = {
	H(highestmodseq, MODSEQ),
	H(unseen, NUM32),
	H(flagged, NUM32),
	H(last_uid, UID),
	H(exists, NUM32),
	H(quota_mailbox_used, NUM64),
	H(last_appenddate, TIME),
	H(recentuid, UID),
	H(recenttime, TIME),
	H(answered, NUM32),
	H(deleted, NUM32),
	H(options, BITS),
	H(deletedmodseq, MODSEQ),
	H(last_repack_time, TIME),
	H(changes_epoch, TIME),
	H(pop3_last_login, TIME),
	H(uidvalidity, RAW32),
	H(pop3_show_after, TIME),
	H(quota_annot_used, NUM64),
	H(createdmodseq, MODSEQ),
	H(quota_deleted_used, NUM64),
	H(quota_expunged_used, NUM64),
	H(minor_version, NUM32),
};

#define N_RECORD (sizeof(record_fields) / sizeof(record_fields[0]))
#define N_HEADER (sizeof(header_fields) / sizeof(header_fields[0]))

/* ---- one field ---- */

static bool
is_64(enum kind kind)
{
	return kind == NUM64 || kind == RAW64 || kind == MODSEQ || kind == TIME;
}

static size_t
width(enum kind kind)
{
	return kind == GUID ? SHA1_LEN : is_64(kind) ? 8 : 4;
}

static uint64_t
load(const struct field *f, const void *from)
{
	const uint8_t *at = (const uint8_t *)from + f->at;
	uint64_t v64;
	uint32_t v32;

	if (is_64(f->kind)) {
		memcpy(&v64, at, 8);
		return v64;
	}
	memcpy(&v32, at, 4);
	return v32;
}

static bool
store(const struct field *f, void *to, uint64_t v)
{
	uint8_t *at = (uint8_t *)to + f->at;
	uint32_t v32 = (uint32_t)v;

	if (is_64(f->kind)) {
		memcpy(at, &v, 8);
		return true;
	}
	if (v > UINT32_MAX)
		return false;
	memcpy(at, &v32, 4);
	return true;
}

static uint64_t
zigzag(uint64_t delta)
{
	return delta << 1 ^ (uint64_t) - (int64_t)(delta >> 63);
}

static uint64_t
unzigzag(uint64_t v)
{
	return v >> 1 ^ (uint64_t) - (int64_t)(v & 1);
}

static void
put_delta(struct buf *out, uint64_t *base, uint64_t v)
{
	wr_varint(out, zigzag(v - *base));
	*base = v;
}

static uint64_t
get_delta(struct rd *in, uint64_t *base)
{
	*base += unzigzag(rd_varint(in));
	return *base;
}

void
change_time_put(struct buf *out, struct change_base *base, uint64_t ns)
{
	uint64_t seconds = ns / NS, rest = ns % NS;

	wr_varint(out, zigzag(seconds - base->seconds) << 1 | (rest != 0));
	if (rest != 0)
		wr_varint(out, rest);
	if (seconds != 0) /* a time that was never set says nothing about the next */
		base->seconds = seconds;
}

uint64_t
change_time_get(struct rd *in, struct change_base *base)
{
	uint64_t v = rd_varint(in);
	uint64_t seconds = base->seconds + unzigzag(v >> 1);
	uint64_t rest = v & 1 ? rd_varint_max(in, NS - 1) : 0;

	if (seconds > UINT64_MAX / NS - 1 || ((v & 1) != 0 && rest == 0))
		in->failed = true;
	if (in->failed)
		return 0;
	if (seconds != 0)
		base->seconds = seconds;
	return seconds * NS + rest;
}

static uint32_t
rotate(uint32_t v, unsigned by)
{
	return v << by | v >> (32 - by);
}

static void
put_field(struct buf *out, struct change_base *base, const struct field *f,
	const void *from)
{
	switch (f->kind) {
	case NUM32:
	case NUM64:
		wr_varint(out, load(f, from));
		break;
	case BITS:
		wr_varint(out, rotate((uint32_t)load(f, from), 6));
		break;
	case RAW32:
		wr_be32(out, (uint32_t)load(f, from));
		break;
	case RAW64:
		wr_be64(out, load(f, from));
		break;
	case GUID:
		buf_put(out, (const uint8_t *)from + f->at, SHA1_LEN);
		break;
	case UID:
		put_delta(out, &base->uid, load(f, from));
		break;
	case MODSEQ:
		put_delta(out, &base->modseq, load(f, from));
		break;
	case TIME:
		change_time_put(out, base, load(f, from));
		break;
	}
}

static void
get_field(struct rd *in, struct change_base *base, const struct field *f, void *to)
{
	const uint8_t *at;
	uint64_t v = 0;

	switch (f->kind) {
	case NUM32:
	case NUM64:
		v = rd_varint(in);
		break;
	case BITS:
		v = rotate((uint32_t)rd_varint_max(in, UINT32_MAX), 32 - 6);
		break;
	case RAW32:
		v = rd_be32(in);
		break;
	case RAW64:
		v = rd_be64(in);
		break;
	case GUID:
		at = rd_bytes(in, SHA1_LEN);
		if (at != NULL)
			memcpy((uint8_t *)to + f->at, at, SHA1_LEN);
		return;
	case UID:
		v = get_delta(in, &base->uid);
		break;
	case MODSEQ:
		v = get_delta(in, &base->modseq);
		break;
	case TIME:
		v = change_time_get(in, base);
		break;
	}
	if (!store(f, to, v))
		in->failed = true;
}

/* ---- a whole table ---- */

static uint64_t
diff(const struct field *f, size_t n, const void *a, const void *b)
{
	uint64_t mask = 0;

	for (size_t i = 0; i < n; i++)
		if (memcmp((const uint8_t *)a + f[i].at, (const uint8_t *)b + f[i].at,
			    width(f[i].kind)) != 0)
			mask |= (uint64_t)1 << i;
	return mask;
}

static void
merge(const struct field *f, size_t n, void *to, const void *from, uint64_t mask)
{
	for (size_t i = 0; i < n; i++)
		if (mask >> i & 1)
			memcpy((uint8_t *)to + f[i].at, (const uint8_t *)from + f[i].at,
				width(f[i].kind));
}

static void
put(struct buf *out, struct change_base *base, const struct field *f, size_t n,
	const void *from, uint64_t mask)
{
	mask &= ((uint64_t)1 << n) - 1;
	wr_varint(out, mask);
	for (size_t i = 0; i < n; i++)
		if (mask >> i & 1)
			put_field(out, base, &f[i], from);
}

static uint64_t
get(struct rd *in, struct change_base *base, const struct field *f, size_t n, void *to)
{
	uint64_t mask = rd_varint_max(in, ((uint64_t)1 << n) - 1);

	for (size_t i = 0; i < n && rd_ok(in); i++)
		if (mask >> i & 1)
			get_field(in, base, &f[i], to);
	return mask;
}

static void
print(const struct field *f, size_t n, const void *from, uint64_t mask, struct buf *out)
{
	char hex[2 * SHA1_LEN + 1];

	for (size_t i = 0; i < n; i++) {
		if ((mask >> i & 1) == 0)
			continue;
		if (f[i].kind == GUID) {
			hash_hex((const uint8_t *)from + f[i].at, SHA1_LEN, hex);
			buf_printf(out, " %s=%s", f[i].name, hex);
			continue;
		}
		uint64_t v = load(&f[i], from);
		if (f[i].kind == BITS || f[i].kind == RAW32 || f[i].kind == RAW64)
			buf_printf(out, " %s=%#" PRIx64, f[i].name, v);
		else if (f[i].kind == TIME && v % NS != 0)
			buf_printf(out, " %s=%" PRIu64 ".%09" PRIu64, f[i].name, v / NS,
				v % NS);
		else
			buf_printf(out, " %s=%" PRIu64, f[i].name,
				f[i].kind == TIME ? v / NS : v);
	}
}

uint64_t
change_record_diff(const struct index_record *a, const struct index_record *b)
{
	return diff(record_fields, N_RECORD, a, b) & ~(uint64_t)CHANGE_RECORD_CACHE;
}

uint64_t
change_header_diff(const struct index_header *a, const struct index_header *b)
{
	return diff(header_fields, N_HEADER, a, b);
}

void
change_record_merge(
	struct index_record *to, const struct index_record *from, uint64_t mask)
{
	merge(record_fields, N_RECORD, to, from, mask);
}

void
change_header_merge(
	struct index_header *to, const struct index_header *from, uint64_t mask)
{
	merge(header_fields, N_HEADER, to, from, mask);
}

uint64_t
change_append_mask(const struct index_record *r)
{
	static const struct index_record zero;
	uint64_t mask = change_record_diff(&zero, r) | CHANGE_RECORD_GUID;

	if (r->cache_version != 0 || r->cache_crc != 0)
		mask |= CHANGE_RECORD_CACHE;
	return mask;
}

void
change_record_put(struct buf *out, struct change_base *base,
	const struct index_record *r, uint64_t mask)
{
	put_delta(out, &base->uid, r->uid);
	put(out, base, record_fields, N_RECORD, r, mask);
}

uint64_t
change_record_get(struct rd *in, struct change_base *base, struct index_record *r)
{
	uint64_t uid = get_delta(in, &base->uid);

	if (uid == 0 || uid > UINT32_MAX) {
		in->failed = true;
		return 0;
	}
	r->uid = (uint32_t)uid;
	return get(in, base, record_fields, N_RECORD, r);
}

void
change_header_put(struct buf *out, struct change_base *base,
	const struct index_header *h, uint64_t mask)
{
	put(out, base, header_fields, N_HEADER, h, mask);
}

uint64_t
change_header_get(struct rd *in, struct change_base *base, struct index_header *h)
{
	return get(in, base, header_fields, N_HEADER, h);
}

void
change_record_print(const struct index_record *r, uint64_t mask, struct buf *out)
{
	print(record_fields, N_RECORD, r, mask, out);
}

void
change_header_print(const struct index_header *h, uint64_t mask, struct buf *out)
{
	print(header_fields, N_HEADER, h, mask, out);
}
