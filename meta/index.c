/*
 * How it works: layout.c knows the places; here are the checks around them. A decode is total:
 * any bytes of the right length give a struct or an error, and nothing outside the length is
 * read. A record is found by bisection over the UIDs as they lie in the file (they are the first
 * word in every version), so no record is decoded that was not asked for. The bytes may be a
 * mapping that changes underneath: what is decoded is copied once, and bounds come from the
 * header as it was when the view was opened.
 */
#include "meta/index.h"
#include "meta/base/err.h"
#include "meta/layout.h"

#include <string.h>

#define NS_PER_SECOND 1000000000u
#define ANNOT_PREFIX "/vendor/cmu/cyrus-imapd/"

static uint32_t
get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void
put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

size_t
index_header_size(uint32_t minor)
{
	const struct layout *l = layout_of(minor);

	return l ? l->header_size : 0;
}

size_t
index_record_size(uint32_t minor)
{
	const struct layout *l = layout_of(minor);

	return l ? l->record_size : 0;
}

int
index_header_decode(const void *p, size_t n, struct index_header *out)
{
	uint8_t bytes[INDEX_MAX_HEADER];

	memset(out, 0, sizeof(*out));
	if (n < 20)
		return ERR_MANGLED;
	const struct layout *l = layout_of(get32((const uint8_t *)p + 8));
	if (l == NULL)
		return ERR_VERSION;
	if (n < l->header_size)
		return ERR_MANGLED;
	memcpy(bytes, p, l->header_size);
	if (get32(bytes + 8) != l->minor || get32(bytes + 4) != 0 ||
		get32(bytes + 12) != l->header_size ||
		get32(bytes + 16) != l->record_size)
		return ERR_VERSION;
	if (l->crc && hash_crc32(0, bytes, l->header_size - 4u) !=
			      get32(bytes + l->header_size - 4))
		return ERR_CHECKSUM;
	layout_read(layout_header, l->minor, bytes, out);
	return 0;
}

int
index_header_encode(const struct index_header *h, uint8_t *out)
{
	const struct layout *l = layout_of(h->minor_version);
	struct index_header copy = *h;

	if (l == NULL)
		return ERR_VERSION;
	copy.start_offset = l->header_size;
	copy.record_size = l->record_size;
	memset(out, 0, l->header_size);
	int rc = layout_write(layout_header, l->minor, &copy, out);
	if (rc == 0 && l->crc)
		put32(out + l->header_size - 4,
			hash_crc32(0, out, l->header_size - 4u));
	return rc;
}

int
index_record_decode(uint32_t minor, const void *p, struct index_record *out)
{
	const struct layout *l = layout_of(minor);
	uint8_t bytes[INDEX_MAX_RECORD];

	memset(out, 0, sizeof(*out));
	if (l == NULL)
		return ERR_VERSION;
	memcpy(bytes, p, l->record_size);
	layout_read(layout_record, minor, bytes, out);
	if (l->crc && hash_crc32(0, bytes, l->record_size - 4u) !=
			      get32(bytes + l->record_size - 4))
		return ERR_CHECKSUM;
	return out->uid == 0 ? ERR_MANGLED : 0;
}

int
index_record_encode(uint32_t minor, const struct index_record *r, uint8_t *out)
{
	const struct layout *l = layout_of(minor);

	if (l == NULL)
		return ERR_VERSION;
	memset(out, 0, l->record_size);
	int rc = layout_write(layout_record, minor, r, out);
	if (rc == 0 && l->crc)
		put32(out + l->record_size - 4,
			hash_crc32(0, out, l->record_size - 4u));
	return rc;
}

int
index_view_open(struct index_view *v, const void *p, size_t n)
{
	*v = (struct index_view){ .p = p, .n = n };
	int rc = index_header_decode(p, n, &v->header);
	if (rc != 0)
		return rc;
	if ((n - v->header.start_offset) / v->header.record_size <
		v->header.num_records)
		return ERR_MANGLED;
	return 0;
}

static const uint8_t *
record_at(const struct index_view *v, uint32_t i)
{
	return v->p + v->header.start_offset + (size_t)i * v->header.record_size;
}

int
index_view_record(const struct index_view *v, uint32_t i, struct index_record *out)
{
	if (i >= v->header.num_records) {
		memset(out, 0, sizeof(*out));
		return ERR_NOTFOUND;
	}
	return index_record_decode(v->header.minor_version, record_at(v, i), out);
}

int
index_view_find(const struct index_view *v, uint32_t uid, uint32_t *i_out)
{
	uint32_t low = 0, high = v->header.num_records;

	/* A mailbox that was never repacked has UID n at place n-1. */
	if (uid > 0 && uid <= high && get32(record_at(v, uid - 1)) == uid) {
		*i_out = uid - 1;
		return 0;
	}
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		uint32_t at = get32(record_at(v, mid));
		if (at == uid) {
			*i_out = mid;
			return 0;
		}
		if (at < uid)
			low = mid + 1;
		else
			high = mid;
	}
	*i_out = low;
	return ERR_NOTFOUND;
}

static uint32_t
crc_lower(const char *s)
{
	char lower[64];
	uint32_t crc = 0;

	for (size_t n = 0; *s != '\0'; n = 0) {
		while (n < sizeof(lower) && *s != '\0') {
			char c = *s++;
			lower[n++] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
		}
		crc = hash_crc32(crc, lower, n);
	}
	return crc;
}

/* Numbers as printf writes them, in a fraction of its time: a scan asks for a dozen of each message.
 * They return the end. */
static char *
put_dec(char *at, uint64_t value)
{
	char digits[20];
	size_t n = 0;

	do
		digits[n++] = (char)('0' + value % 10);
	while ((value /= 10) != 0);
	while (n > 0)
		*at++ = digits[--n];
	return at;
}

/* With leading zeros up to so many digits. */
static char *
put_hex(char *at, uint64_t value, int least)
{
	int n = 16;

	while (n > least && n > 1 && value >> (4 * (n - 1)) == 0)
		n--;
	while (n-- > 0)
		*at++ = "0123456789abcdef"[value >> (4 * n) & 15];
	return at;
}

static char *
put_text(char *at, const char *text)
{
	size_t n = strlen(text);

	memcpy(at, text, n);
	return at + n;
}

uint32_t
index_crc_basic(const struct index_record *r, const char *const *flag_names)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} system[] = {
		{ INDEX_FLAG_DELETED, "\\deleted" },
		{ INDEX_FLAG_ANSWERED, "\\answered" },
		{ INDEX_FLAG_FLAGGED, "\\flagged" },
		{ INDEX_FLAG_DRAFT, "\\draft" },
		{ INDEX_FLAG_SEEN, "\\seen" },
	};
	char guid[2 * SHA1_LEN + 1], text[160];
	uint32_t flags = 0;

	if (r->flags & INDEX_FLAG_EXPUNGED)
		return 0;
	for (size_t i = 0; i < sizeof(system) / sizeof(system[0]); i++)
		if (r->flags & system[i].bit)
			flags ^= crc_lower(system[i].name);
	for (unsigned word = 0; word < INDEX_USER_FLAGS / 32; word++)
		for (uint32_t bits = r->user_flags[word]; bits != 0; bits &= bits - 1) {
			unsigned i = word * 32 + (unsigned)__builtin_ctz(bits);
			if (flag_names[i] != NULL)
				flags ^= crc_lower(flag_names[i]);
		}
	hash_hex(r->guid, SHA1_LEN, guid);
	/* UID modseq last_updated (flags) internaldate guid */
	char *at = put_dec(text, r->uid);
	at = put_dec(put_text(at, " "), r->modseq);
	at = put_dec(put_text(at, " "), r->last_updated / NS_PER_SECOND);
	at = put_dec(put_text(at, " ("), flags);
	at = put_dec(put_text(at, ") "), r->internaldate / NS_PER_SECOND);
	at = put_text(put_text(at, " "), guid);
	return hash_crc32(0, text, (size_t)(at - text));
}

uint32_t
index_crc_virtual(uint32_t minor, const struct index_record *r)
{
	uint64_t nsec = r->internaldate % NS_PER_SECOND;
	const struct {
		uint32_t since;
		uint64_t value;
		const char *entry;
		int hex; /* that many digits at least; 0: decimal */
	} rows[] = {
		/* Written without leading zeros up to 3.12, with 16 digits by what writes 20. */
		{ 13, r->cid, ANNOT_PREFIX "thrid", minor >= 20 ? 16 : 1 },
		{ 15, r->savedate / NS_PER_SECOND, ANNOT_PREFIX "savedate", 0 },
		{ 16, r->createdmodseq, ANNOT_PREFIX "createdmodseq", 0 },
		{ 20, nsec, ANNOT_PREFIX "internaldate.nsec", 0 },
		{ 20, r->basecid, ANNOT_PREFIX "basethrid", 16 },
	};
	char text[32];
	uint32_t crc = 0;

	if (r->flags & INDEX_FLAG_EXPUNGED)
		return 0;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (minor < rows[i].since || rows[i].value == 0)
			continue;
		char *end = rows[i].hex > 0 ? put_hex(text, rows[i].value, rows[i].hex)
					    : put_dec(text, rows[i].value);
		crc ^= index_crc_annot(
			r->uid, rows[i].entry, "", text, (size_t)(end - text));
	}
	return crc;
}

uint32_t
index_crc_annot(uint32_t uid, const char *entry, const char *userid, const void *value,
	size_t len)
{
	char text[16];
	char *end = put_text(put_dec(text, uid), " ");
	uint32_t crc = hash_crc32(0, text, (size_t)(end - text));

	crc = hash_crc32(crc, entry, strlen(entry));
	crc = hash_crc32(crc, " ", 1);
	crc = hash_crc32(crc, userid, strlen(userid));
	crc = hash_crc32(crc, " ", 1);
	return hash_crc32(crc, value, len);
}

void
index_header_fields(const struct index_header *h, index_field_fn *fn, void *arg)
{
	layout_print(layout_header, h->minor_version, h, fn, arg);
}

void
index_record_fields(
	uint32_t minor, const struct index_record *r, index_field_fn *fn, void *arg)
{
	layout_print(layout_record, minor, r, fn, arg);
}
