/*
 * wire.c - the field tables of the messages, and frames.
 */
#include "sync/wire.h"
#include "meta/base/err.h"

/* clang-format off */
static const struct rec_field hello_fields[] = {
	REC_U32(struct wire_hello, proto_min),
	REC_U32(struct wire_hello, proto_max),
	REC_U64(struct wire_hello, features),
	REC_STR(struct wire_hello, name, WIRE_NAME_MAX),
	REC_U64(struct wire_hello, boot),
	REC_U8(struct wire_hello, role),
	REC_U64(struct wire_hello, epoch),
	REC_U64(struct wire_hello, run),
	REC_STR(struct wire_hello, spool_id, WIRE_ID_MAX),
	REC_U64(struct wire_hello, journal_first),
	REC_U64(struct wire_hello, journal_last),
	REC_U64(struct wire_hello, held_epoch),
	REC_U64(struct wire_hello, held_run),
	REC_U64(struct wire_hello, held_received),
	REC_U64(struct wire_hello, held_flushed),
	REC_U64(struct wire_hello, held_applied),
	REC_U64(struct wire_hello, clock),
	REC_BLOB(struct wire_hello, line, WIRE_LINE_MAX),
	REC_END
};

static const struct rec_field bye_fields[] = {
	REC_U8(struct wire_bye, code),
	REC_STR(struct wire_bye, text, WIRE_TEXT_MAX),
	REC_END
};

static const struct rec_field heartbeat_fields[] = {
	REC_U64(struct wire_heartbeat, clock),
	REC_U64(struct wire_heartbeat, journal_last),
	REC_END
};

static const struct rec_field start_fields[] = {
	REC_U64(struct wire_start, epoch),
	REC_U64(struct wire_start, run),
	REC_U64(struct wire_start, from_seq),
	REC_UINT(struct wire_start, mode, WIRE_MODES - 1),
	REC_END
};

static const struct rec_field batch_fields[] = {
	REC_U64(struct wire_batch, seq),
	REC_BLOB(struct wire_batch, bytes, WIRE_BATCH_MAX),
	REC_END
};

static const struct rec_field body_fields[] = {
	REC_FIXED(struct wire_body, guid),
	REC_U64(struct wire_body, total),
	REC_U64(struct wire_body, offset),
	REC_BLOB(struct wire_body, data, WIRE_BODY_MAX),
	REC_END
};

static const struct rec_field gone_fields[] = {
	REC_FIXED(struct wire_gone, guid),
	REC_END
};

static const struct rec_field need_fields[] = {
	REC_FIXED(struct wire_need, guid),
	REC_U64(struct wire_need, size),
	REC_STR(struct wire_need, dir, WIRE_DIR_MAX),
	REC_U32(struct wire_need, uid),
	REC_END
};

static const struct rec_field ack_fields[] = {
	REC_U64(struct wire_ack, received),
	REC_U64(struct wire_ack, flushed),
	REC_U64(struct wire_ack, applied),
	REC_END
};

static const struct rec_field want_fields[] = {
	REC_UINT(struct wire_want, levels, 15),
	REC_END
};

static const struct rec_field confirm_fields[] = {
	REC_U64(struct wire_confirm, received),
	REC_U64(struct wire_confirm, flushed),
	REC_U64(struct wire_confirm, applied),
	REC_END
};

static const struct rec_field sum_fields[] = {
	REC_STR(struct wire_sum, dir, WIRE_DIR_MAX),
	REC_STR(struct wire_sum, uniqueid, WIRE_ID_MAX),
	REC_FIXED(struct wire_sum, sum),
	REC_END
};

static const struct rec_field sums_fields[] = {
	REC_LIST(struct wire_sums, list, WIRE_SUMS_MAX, sum_fields, struct wire_sum),
	REC_BOOL(struct wire_sums, last),
	REC_END
};

static const struct rec_field dir_fields[] = {
	REC_STR(struct wire_dir, dir, WIRE_DIR_MAX),
	REC_END
};

static const struct rec_field diff_fields[] = {
	REC_LIST(struct wire_diff, list, WIRE_SUMS_MAX, dir_fields, struct wire_dir),
	REC_BOOL(struct wire_diff, last),
	REC_END
};

static const struct rec_field list_fields[] = {
	REC_STR(struct wire_list, dir, WIRE_DIR_MAX),
	REC_END
};

static const struct rec_field record_fields[] = {
	REC_U32(struct wire_record, uid),
	REC_FIXED(struct wire_record, hash),
	REC_U32(struct wire_record, guid),
	REC_U64(struct wire_record, modseq),
	REC_UINT(struct wire_record, gone, 2),
	REC_END
};

static const struct rec_field records_fields[] = {
	REC_STR(struct wire_records, dir, WIRE_DIR_MAX),
	REC_STR(struct wire_records, uniqueid, WIRE_ID_MAX),
	REC_BOOL(struct wire_records, present),
	REC_U64(struct wire_records, highestmodseq),
	REC_LIST(struct wire_records, list, WIRE_RECORDS_MAX, record_fields,
		struct wire_record),
	REC_BOOL(struct wire_records, last),
	REC_END
};

static const struct rec_field quarantine_fields[] = {
	REC_STR(struct wire_quarantine, dir, WIRE_DIR_MAX),
	REC_U32(struct wire_quarantine, uid),
	REC_STR(struct wire_quarantine, check, WIRE_NAME_MAX),
	REC_STR(struct wire_quarantine, text, WIRE_TEXT_MAX),
	REC_END
};

static const struct rec_field verify_fields[] = {
	REC_U64(struct wire_verify, seq),
	REC_FIXED(struct wire_verify, sum),
	REC_END
};

static const struct rec_field verified_fields[] = {
	REC_U64(struct wire_verified, seq),
	REC_BOOL(struct wire_verified, ok),
	REC_STR(struct wire_verified, text, WIRE_TEXT_MAX),
	REC_END
};

#define WIRE_ROW(name, num, stem, max, when, bulk, since) \
	[num] = { #name, stem##_fields, max, when, bulk, since },
static const struct wire_kind kinds[WIRE_TYPES] = { WIRE_TABLE(WIRE_ROW) };
#undef WIRE_ROW

#define WIRE_BYE_ROW(name, text) text,
static const char *const bye_texts[] = { WIRE_BYE_TABLE(WIRE_BYE_ROW) };
#undef WIRE_BYE_ROW
/* clang-format on */

const struct wire_kind *
wire_kind(unsigned type)
{
	return type < WIRE_TYPES && kinds[type].name != NULL ? &kinds[type] : NULL;
}

uint64_t
wire_feature(unsigned type)
{
	return type == WIRE_WANT || type == WIRE_CONFIRM ? WIRE_FEATURE_LEVELS : 0;
}

const char *
wire_bye_text(unsigned code)
{
	return code < WIRE_BYE_CODES ? bye_texts[code] : "a reason not known here";
}

int
wire_encode(unsigned type, unsigned version, const void *msg, struct buf *out)
{
	const struct wire_kind *k = wire_kind(type);
	size_t before = out->len, n;
	int rc;

	if (k == NULL || k->since > version)
		return ERR_VERSION;
	/* The length goes first: room for the longest form, moved together afterwards. */
	enum { HEAD = 5 };
	if (buf_room(out, HEAD) == NULL)
		return buf_ok(out);
	out->len += HEAD;
	wr_u8(out, (uint8_t)type);
	rc = rec_encode_at(k->fields, version, msg, out);
	n = out->len - before - HEAD;
	if (rc == 0 && n > k->max)
		rc = ERR_LIMIT;
	if (rc == 0)
		rc = buf_ok(out);
	if (rc != 0) {
		out->len = before;
		return rc;
	}
	uint8_t *at = out->data + before;
	size_t head = 0, v = n;
	do {
		at[head] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
		v >>= 7;
		head++;
	} while (v != 0);
	memmove(at + head, at + HEAD, n);
	out->len = before + head + n;
	return 0;
}

int
wire_peek(const void *p, size_t n, unsigned version, struct wire_frame *frame_out)
{
	struct rd r = rd_over(p, n);
	uint64_t len = rd_varint(&r);
	const struct wire_kind *k;

	*frame_out = (struct wire_frame){ 0, 0, 0 };
	if (!rd_ok(&r)) {
		/* Four bytes are enough for the longest frame, so five that do not end are none. */
		const uint8_t *b = p;
		for (size_t i = 0; i < n; i++)
			if (i >= 4 || (b[i] & 0x80) == 0)
				return ERR_PROTO;
		return 0;
	}
	if (len == 0 || len > WIRE_BATCH_MAX + 64)
		return ERR_PROTO;
	unsigned type = rd_u8(&r);
	if (!rd_ok(&r))
		return 0;
	k = wire_kind(type);
	if (k == NULL || k->since > version)
		return ERR_VERSION;
	if (len > k->max)
		return ERR_PROTO;
	frame_out->type = type;
	frame_out->head = (size_t)(r.p - (const uint8_t *)p);
	frame_out->body = (size_t)len - 1;
	return 0;
}

int
wire_decode(unsigned type, unsigned version, const void *p, size_t n,
	struct rec_mem *mem, union wire_any *msg_out)
{
	const struct wire_kind *k = wire_kind(type);
	struct rd r = rd_over(p, n);
	int rc;

	if (k == NULL || k->since > version)
		return ERR_VERSION;
	rc = rec_decode_at(k->fields, version, &r, mem, msg_out);
	if (rc == ERR_MANGLED)
		return ERR_PROTO;
	if (rc == 0 && type != WIRE_HELLO && type != WIRE_BYE && !rd_done(&r))
		return ERR_PROTO;
	return rc;
}
