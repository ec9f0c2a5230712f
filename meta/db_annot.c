/*
 * How it works: the key is three strings, each with its NUL; the value is a length in a word of
 * the platform's long (F5.2), the value and its NUL, and what older versions wanted to read
 * behind it. Those wrote less: what is missing at the end decodes as 0.
 */
#include "meta/db.h"
#include "meta/base/buf.h"
#include "meta/base/cur.h"
#include "meta/base/err.h"

#include <string.h>

static const char content_type[] = "text/plain";

/* The decimal text of a UID, as Cyrus prints it, up to its NUL. */
static bool
read_uid(struct rd *r, uint32_t *uid_out)
{
	uint64_t uid = 0;
	uint8_t c = rd_u8(r);

	if (c < '1' || c > '9')
		return false;
	for (; c != 0; c = rd_u8(r)) {
		if (c < '0' || c > '9')
			return false;
		uid = uid * 10 + (uint64_t)(c - '0');
		if (uid > UINT32_MAX)
			return false;
	}
	*uid_out = (uint32_t)uid;
	return rd_ok(r);
}

static const char *
read_text(struct rd *r)
{
	size_t left = rd_left(r);
	const uint8_t *nul = left ? memchr(r->p, '\0', left) : NULL;

	if (nul == NULL) {
		r->failed = true;
		return NULL;
	}
	return (const char *)rd_bytes(r, (size_t)(nul - r->p) + 1);
}

/* What comes behind the UID or the unique id, and the value. */
static int
decode_rest(struct rd *k, const uint8_t *val, size_t vlen, struct db_annot *out)
{
	struct rd v = rd_over(val, vlen);

	out->entry = read_text(k);
	out->userid = read_text(k);
	if (!rd_done(k) || out->entry[0] == '\0')
		return ERR_MANGLED;

	out->value_len = rd_be32(&v);
	if (rd_be32(&v) != 0)
		return ERR_MANGLED;
	out->value = rd_bytes(&v, out->value_len);
	if (rd_u8(&v) != 0 || !rd_ok(&v))
		return ERR_MANGLED;
	if (rd_left(&v) > 0) {
		read_text(&v);
		rd_be64(&v);
	}
	if (rd_left(&v) > 0)
		out->modseq = rd_be64(&v);
	if (rd_left(&v) > 0)
		out->flags = rd_u8(&v);
	return rd_done(&v) ? 0 : ERR_MANGLED;
}

int
db_annot_decode(const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen,
	struct db_annot *out)
{
	struct rd k = rd_over(key, klen);

	memset(out, 0, sizeof(*out));
	return read_uid(&k, &out->uid) ? decode_rest(&k, val, vlen, out) : ERR_MANGLED;
}

int
db_annot_decode_box(const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen,
	struct db_annot *out, const char **box_out)
{
	struct rd k = rd_over(key, klen);

	memset(out, 0, sizeof(*out));
	*box_out = read_text(&k);
	return *box_out ? decode_rest(&k, val, vlen, out) : ERR_MANGLED;
}

void
db_annot_encode(const struct db_annot *a, struct buf *key_out, struct buf *val_out)
{
	buf_printf(key_out, "%u", a->uid);
	wr_u8(key_out, 0);
	buf_put(key_out, a->entry, strlen(a->entry) + 1);
	buf_put(key_out, a->userid, strlen(a->userid) + 1);

	wr_be32(val_out, (uint32_t)a->value_len);
	wr_be32(val_out, 0);
	buf_put(val_out, a->value, a->value_len);
	wr_u8(val_out, 0);
	buf_put(val_out, content_type, sizeof(content_type));
	wr_be64(val_out, 0);
	wr_be64(val_out, a->modseq);
	wr_u8(val_out, a->flags);
}
