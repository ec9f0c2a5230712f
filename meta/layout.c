/*
 * How it works: a row of a table is a field at one place in a range of versions; a field that
 * moved has several rows with ranges that do not overlap. The walkers go through the whole
 * table and skip what is not of the version: some thirty comparisons, less than the CRC costs.
 *
 * What is not named is spare and zero. Version 10 keeps the offset of the body where later ones
 * keep gmtime; it always equals header_size, so it is written from there and not read.
 */
#include "meta/layout.h"
#include "meta/base/err.h"

#include <endian.h>
#include <string.h>

#define NS_PER_SECOND 1000000000u

static const struct layout versions[] = {
	{ 10, 96, 88, false },
	{ 12, 128, 96, true },
	{ 13, 128, 104, true },
	{ 14, 160, 104, true },
	{ 15, 160, 104, true },
	{ 16, 160, 112, true },
	{ 17, 160, 112, true },
	{ 18, 160, 112, true },
	{ 19, 160, 112, true },
	{ 20, 192, 144, true },
};

#define ROW(s, m, from, to, kind, off, size) \
	{ \
#m, from, to, LAYOUT_##kind, off, size, sizeof(((struct s *)0)->m), \
			offsetof(struct s, m) \
	}
#define H(m, from, to, kind, off, size) ROW(index_header, m, from, to, kind, off, size)
#define R(m, from, to, kind, off, size) ROW(index_record, m, from, to, kind, off, size)

/* clang-format off */
const struct layout_field layout_header[] = {
	H(generation_no,        10, 20, UINT,   0, 4),
	H(format,               10, 20, UINT,   4, 4),
	H(minor_version,        10, 20, UINT,   8, 4),
	H(start_offset,         10, 20, UINT,  12, 4),
	H(record_size,          10, 20, UINT,  16, 4),
	H(num_records,          10, 20, UINT,  20, 4),
	H(last_appenddate,      10, 19, TIME,  24, 4),
	H(last_appenddate,      20, 20, TIME,  24, 8),
	H(last_uid,             10, 19, UINT,  28, 4),
	H(last_uid,             20, 20, UINT,  88, 4),
	H(quota_mailbox_used,   10, 20, UINT,  32, 8),
	H(pop3_last_login,      10, 19, TIME,  40, 4),
	H(pop3_last_login,      20, 20, TIME,  40, 8),
	H(uidvalidity,          10, 19, UINT,  44, 4),
	H(uidvalidity,          20, 20, UINT,  92, 4),
	H(deleted,              10, 20, UINT,  48, 4),
	H(answered,             10, 20, UINT,  52, 4),
	H(flagged,              10, 20, UINT,  56, 4),
	H(options,              10, 18, UINT,  60, 4),
	H(options,              19, 20, UINT,  64, 4),
	H(leaked_cache_records, 10, 18, UINT,  64, 4),
	H(leaked_cache_records, 19, 20, UINT,  68, 4),
	H(highestmodseq,        10, 18, UINT,  68, 8),
	H(highestmodseq,        19, 20, UINT,  72, 8),
	H(deletedmodseq,        12, 18, UINT,  76, 8),
	H(deletedmodseq,        19, 20, UINT,  80, 8),
	H(exists,               12, 18, UINT,  84, 4),
	H(exists,               19, 20, UINT,  60, 4),
	H(first_expunged,       12, 19, TIME,  88, 4),
	H(first_expunged,       20, 20, TIME, 168, 8),
	H(last_repack_time,     12, 19, TIME,  92, 4),
	H(last_repack_time,     20, 20, TIME, 176, 8),
	H(header_file_crc,      12, 20, UINT,  96, 4),
	H(sync_basic,           12, 20, UINT, 100, 4),
	H(recentuid,            12, 19, UINT, 104, 4),
	H(recentuid,            20, 20, UINT, 184, 4),
	H(recenttime,           12, 19, TIME, 108, 4),
	H(recenttime,           20, 20, TIME, 104, 8),
	H(pop3_show_after,      13, 19, TIME, 112, 4),
	H(pop3_show_after,      20, 20, TIME, 112, 8),
	H(quota_annot_used,     13, 19, UINT, 116, 4),
	H(quota_annot_used,     20, 20, UINT, 152, 8),
	H(sync_annot,           13, 20, UINT, 120, 4),
	H(unseen,               14, 20, UINT, 124, 4),
	H(createdmodseq,        16, 20, UINT, 128, 8),
	H(changes_epoch,        17, 18, TIME, 136, 4),
	H(changes_epoch,        19, 19, TIME, 152, 4),
	H(changes_epoch,        20, 20, TIME, 160, 8),
	H(quota_deleted_used,   18, 18, UINT, 140, 8),
	H(quota_deleted_used,   19, 20, UINT, 136, 8),
	H(quota_expunged_used,  18, 18, UINT, 148, 8),
	H(quota_expunged_used,  19, 20, UINT, 144, 8),
	{ .name = NULL },
};

const struct layout_field layout_record[] = {
	R(uid,                  10, 20, UINT,   0, 4),
	R(internaldate,         10, 19, TIME,   4, 4),
	R(internaldate,         20, 20, TIME,   8, 8),
	R(sentdate,             10, 19, TIME,   8, 4),
	R(sentdate,             20, 20, TIME,  16, 8),
	R(size,                 10, 19, UINT,  12, 4),
	R(size,                 20, 20, UINT,  24, 8),
	R(header_size,          10, 19, UINT,  16, 4),
	R(header_size,          10, 10, COPY,  20, 4),
	R(header_size,          20, 20, UINT,  32, 4),
	R(gmtime,               12, 19, TIME,  20, 4),
	R(gmtime,               20, 20, TIME, 104, 8),
	R(cache_offset,         10, 19, UINT,  24, 4),
	R(cache_offset,         20, 20, UINT,   4, 4),
	R(cache_offset,         10, 20, HIGH,  56, 2),
	R(last_updated,         10, 19, TIME,  28, 4),
	R(last_updated,         20, 20, TIME, 112, 8),
	R(flags,                10, 19, UINT,  32, 4),
	R(flags,                20, 20, UINT,  36, 4),
	R(user_flags[0],        10, 19, UINT,  36, 4),
	R(user_flags[1],        10, 19, UINT,  40, 4),
	R(user_flags[2],        10, 19, UINT,  44, 4),
	R(user_flags[3],        10, 19, UINT,  48, 4),
	R(user_flags[0],        20, 20, UINT,  40, 4),
	R(user_flags[1],        20, 20, UINT,  44, 4),
	R(user_flags[2],        20, 20, UINT,  48, 4),
	R(user_flags[3],        20, 20, UINT,  52, 4),
	R(content_lines,        10, 10, UINT,  52, 4),
	R(savedate,             15, 19, TIME,  52, 4),
	R(savedate,             20, 20, TIME, 120, 8),
	R(cache_version,        10, 20, UINT,  58, 2),
	R(guid,                 10, 20, BYTES, 60, 20),
	R(modseq,               10, 20, UINT,  80, 8),
	R(cid,                  13, 20, UINT,  88, 8),
	R(createdmodseq,        16, 20, UINT,  96, 8),
	R(basecid,              20, 20, UINT, 128, 8),
	R(cache_crc,            12, 12, UINT,  88, 4),
	R(cache_crc,            13, 15, UINT,  96, 4),
	R(cache_crc,            16, 19, UINT, 104, 4),
	R(cache_crc,            20, 20, UINT, 136, 4),
	{ .name = NULL },
};
/* clang-format on */

const struct layout *
layout_of(uint32_t minor)
{
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		if (versions[i].minor == minor)
			return &versions[i];
	return NULL;
}

static bool
of_version(const struct layout_field *f, uint32_t minor)
{
	return minor >= f->from && minor <= f->to;
}

static uint64_t
get(const uint8_t *p, size_t n)
{
	uint64_t wide;
	uint32_t word;

	if (n == 4) {
		memcpy(&word, p, 4);
		return be32toh(word);
	}
	if (n == 8) {
		memcpy(&wide, p, 8);
		return be64toh(wide);
	}
	return (uint64_t)p[0] << 8 | p[1];
}

static uint64_t
get_member(const struct layout_field *f, const void *in)
{
	const uint8_t *at = (const uint8_t *)in + f->at;
	uint64_t wide;
	uint32_t narrow;

	if (f->width == 8) {
		memcpy(&wide, at, 8);
		return wide;
	}
	memcpy(&narrow, at, 4);
	return narrow;
}

static void
set_member(const struct layout_field *f, void *out, uint64_t v)
{
	uint8_t *at = (uint8_t *)out + f->at;
	uint32_t narrow = (uint32_t)v;

	if (f->width == 8)
		memcpy(at, &v, 8);
	else
		memcpy(at, &narrow, 4);
}

void
layout_read(
	const struct layout_field *table, uint32_t minor, const uint8_t *p, void *out)
{
	for (const struct layout_field *f = table; f->name != NULL; f++) {
		if (!of_version(f, minor))
			continue;
		switch ((enum layout_kind)f->kind) {
		case LAYOUT_UINT:
			set_member(f, out, get(p + f->off, f->size));
			break;
		case LAYOUT_TIME:
			set_member(f, out,
				get(p + f->off, f->size) *
					(f->size == 4 ? NS_PER_SECOND : 1));
			break;
		case LAYOUT_HIGH:
			set_member(f, out,
				get_member(f, out) | get(p + f->off, f->size) << 32);
			break;
		case LAYOUT_COPY:
			break;
		case LAYOUT_BYTES:
			memcpy((uint8_t *)out + f->at, p + f->off, f->size);
			break;
		}
	}
}

/* Is there a row for the part above 32 bits? */
static bool
has_high(const struct layout_field *table, const struct layout_field *low)
{
	for (const struct layout_field *f = table; f->name != NULL; f++)
		if (f->kind == LAYOUT_HIGH && f->at == low->at)
			return true;
	return false;
}

int
layout_write(
	const struct layout_field *table, uint32_t minor, const void *in, uint8_t *p)
{
	for (const struct layout_field *f = table; f->name != NULL; f++) {
		if (!of_version(f, minor))
			continue;
		if (f->kind == LAYOUT_BYTES) {
			memcpy(p + f->off, (const uint8_t *)in + f->at, f->size);
			continue;
		}
		uint64_t v = get_member(f, in);
		if (f->kind == LAYOUT_TIME && f->size == 4)
			v /= NS_PER_SECOND;
		if (f->kind == LAYOUT_HIGH)
			v >>= 32;
		else if (f->size == 4 && v > UINT32_MAX && has_high(table, f))
			v = (uint32_t)v;
		if (f->size < 8 && v >> (8 * f->size) != 0)
			return ERR_LIMIT;
		for (size_t i = 0; i < f->size; i++)
			p[f->off + i] = (uint8_t)(v >> (8 * (f->size - 1 - i)));
	}
	return 0;
}

void
layout_print(const struct layout_field *table, uint32_t minor, const void *in,
	index_field_fn *fn, void *arg)
{
	for (const struct layout_field *f = table; f->name != NULL; f++)
		if (of_version(f, minor) &&
			(f->kind == LAYOUT_UINT || f->kind == LAYOUT_TIME))
			fn(arg, f->name, get_member(f, in), f->kind == LAYOUT_TIME);
}
