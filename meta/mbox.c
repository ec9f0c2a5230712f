/*
 * mbox.c - a mailbox's state: taken from the files, and as bytes of the store.
 *
 *   state = version, index header (its bytes as in the file, for the version that it has),
 *           four sums, owner and modes, uniqueid, stamp of the index file
 *
 * The index header is kept as Cyrus's own bytes: its codec is tested anyway, its CRC guards it,
 * and the generation, record count and CRCs that are no part of a sum come along.
 */
#include "meta/mbox.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/scan.h"

#define VERSION 1

int
mbox_load(struct spool *sp, const char *dir, const struct mbox_state *known,
	struct mbox_state *out, struct mbox_fault *fault)
{
	struct scan s;
	int rc = scan_open(sp, dir, SCAN_STRICT, known, &s, fault);

	if (rc != 0)
		return rc;
	scan_state(&s, out);
	scan_close(&s);
	return 0;
}

static void
put_sum(struct buf *out, struct sum s)
{
	uint8_t p[SUM_LEN];

	sum_put(s, p);
	buf_put(out, p, SUM_LEN);
}

static struct sum
get_sum(struct rd *in)
{
	const uint8_t *p = rd_bytes(in, SUM_LEN);

	return p != NULL ? sum_get(p) : (struct sum){ 0, 0 };
}

int
mbox_state_encode(const struct mbox_state *s, struct buf *out)
{
	uint8_t head[INDEX_MAX_HEADER];

	wr_u8(out, VERSION);
	if (s->header.minor_version == 0) {
		wr_blob(out, "", 0);
	} else {
		int rc = index_header_encode(&s->header, head);
		if (rc != 0)
			return rc;
		wr_blob(out, head, index_header_size(s->header.minor_version));
	}
	put_sum(out, s->sum.records);
	put_sum(out, s->sum.annots);
	put_sum(out, s->sum.header);
	put_sum(out, s->sum.names);
	wr_varint(out, s->owner.uid);
	wr_varint(out, s->owner.gid);
	wr_varint(out, s->owner.dir_mode);
	wr_varint(out, s->owner.index_mode);
	wr_varint(out, s->owner.cache_mode);
	wr_varint(out, s->owner.annot_mode);
	wr_varint(out, s->owner.message_mode);
	wr_blob(out, s->uniqueid, strnlen(s->uniqueid, sizeof(s->uniqueid) - 1));
	wr_varint(out, s->index_mtime);
	wr_varint(out, s->index_size);
	wr_varint(out, s->index_ino);
	return buf_ok(out);
}

static uint32_t
get_mode(struct rd *in)
{
	return (uint32_t)rd_varint_max(in, 07777);
}

int
mbox_state_decode(const void *p, size_t n, struct mbox_state *out)
{
	struct rd in = rd_over(p, n);
	size_t len;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	if (rd_u8(&in) != VERSION)
		return rd_ok(&in) ? ERR_VERSION : ERR_MANGLED;
	const uint8_t *head = rd_blob(&in, INDEX_MAX_HEADER, &len);
	if (head != NULL && len > 0) {
		rc = index_header_decode(head, len, &out->header);
		if (rc == 0 && len != out->header.start_offset)
			rc = ERR_MANGLED;
	}
	out->sum.records = get_sum(&in);
	out->sum.annots = get_sum(&in);
	out->sum.header = get_sum(&in);
	out->sum.names = get_sum(&in);
	out->owner.uid = (uint32_t)rd_varint_max(&in, UINT32_MAX);
	out->owner.gid = (uint32_t)rd_varint_max(&in, UINT32_MAX);
	out->owner.dir_mode = get_mode(&in);
	out->owner.index_mode = get_mode(&in);
	out->owner.cache_mode = get_mode(&in);
	out->owner.annot_mode = get_mode(&in);
	out->owner.message_mode = get_mode(&in);
	const uint8_t *id = rd_blob(&in, sizeof(out->uniqueid) - 1, &len);
	if (id != NULL && memchr(id, 0, len) == NULL)
		memcpy(out->uniqueid, id, len);
	else
		in.failed = true;
	out->index_mtime = rd_varint(&in);
	out->index_size = rd_varint(&in);
	out->index_ino = rd_varint(&in);
	if (rc == 0 && !rd_done(&in))
		rc = ERR_MANGLED;
	if (rc != 0)
		memset(out, 0, sizeof(*out));
	return rc;
}
