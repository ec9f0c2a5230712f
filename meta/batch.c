/*
 * batch.c - batches in memory and their bytes.
 *
 *   batch    = version flags dir uniqueid [from_dir] [before] [after] [basic annot]
 *              count change...
 *   change   = byte (low four bits the kind, high four bits what else is there) and its fields
 *
 * before is there unless the batch is WHOLE, DERIVED, CREATE or about a path; after unless it is
 * REMOVE or about a path; each of Cyrus's own sums if its bit in flags is set. The decoder
 * accepts nothing that the encoder would not write and that a later step would have to doubt:
 * kinds in the wrong sort of batch, two headers, an expunge without a GUID, names that leave
 * the spool.
 *
 * Memory is handed out from blocks that never move, since changes point into them.
 */
#include "meta/batch.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/cache.h"
#include "meta/header.h"

#include <stdlib.h>

#define VERSION 1

/* Bits of flags that only the bytes have. */
#define HAS_FROM 0x20u
#define HAS_BASIC 0x40u
#define HAS_ANNOT 0x80u
#define FLAGS_STORED \
	(BATCH_WHOLE | BATCH_DERIVED | BATCH_CREATE | BATCH_REMOVE | BATCH_PARTIAL)
#define FLAGS_KNOWN (FLAGS_STORED | HAS_FROM | HAS_BASIC | HAS_ANNOT)

/* High bits of a change's first byte. */
#define REC_APPEND 0x10u
#define REC_CACHE 0x20u
#define REC_REF 0x40u
#define REC_ELSEWHERE 0x80u

#define MAX_UNIQUEID 63
#define MAX_ENTRY 4096
#define MAX_VALUE (16u << 20)
#define MAX_ANNOTS 65536u

#define BLOCK_MIN ((size_t)4096)

struct batch_block {
	struct batch_block *next;
	size_t used, size;
	_Alignas(max_align_t) uint8_t data[];
};

/* ---- memory ---- */

void
batch_init(struct batch *b)
{
	memset(b, 0, sizeof(*b));
	b->dir = b->uniqueid = "";
}

void
batch_fini(struct batch *b)
{
	struct batch_block *next;

	for (struct batch_block *at = b->blocks; at != NULL; at = next) {
		next = at->next;
		free(at);
	}
	free(b->changes);
	batch_init(b);
}

struct change *
batch_add(struct batch *b, enum change_kind kind)
{
	if (b->n == b->cap) {
		size_t cap = b->cap < 2 ? 2 : b->cap * 2;
		if (b->n >= BATCH_MAX_CHANGES)
			return NULL;
		struct change *more = realloc(b->changes, cap * sizeof(*more));
		if (more == NULL)
			return NULL;
		b->changes = more;
		b->cap = cap;
	}
	struct change *c = &b->changes[b->n++];
	memset(c, 0, sizeof(*c));
	c->kind = kind;
	return c;
}

void *
batch_room(struct batch *b, size_t n)
{
	const size_t align = _Alignof(max_align_t);
	struct batch_block *at = b->blocks;

	if (n > BATCH_MAX)
		return NULL;
	n = (n + align - 1) / align * align;
	if (at == NULL || n > at->size - at->used) {
		size_t size = n > BLOCK_MIN ? n : BLOCK_MIN;
		struct batch_block *fresh = calloc(1, sizeof(*fresh) + size);
		if (fresh == NULL)
			return NULL;
		fresh->size = size;
		/* A block made for one large thing goes behind the one with room left. */
		if (at != NULL && n > BLOCK_MIN / 2) {
			fresh->next = at->next;
			at->next = fresh;
		} else {
			fresh->next = at;
			b->blocks = fresh;
		}
		at = fresh;
	}
	void *p = at->data + at->used;
	at->used += n;
	return p;
}

const void *
batch_keep(struct batch *b, const void *p, size_t n)
{
	uint8_t *copy = n < BATCH_MAX ? batch_room(b, n + 1) : NULL;

	if (copy != NULL && n > 0)
		memcpy(copy, p, n);
	return copy;
}

/* ---- what kinds there are ---- */

static const struct {
	bool known;
	bool of_path; /* may stand in a batch about paths, else in one about a mailbox */
	bool once;
	uint8_t extra; /* high bits that its first byte may have */
} kinds[] = {
	[CHANGE_RECORD] = { true, false, false,
		REC_APPEND | REC_CACHE | REC_REF | REC_ELSEWHERE },
	[CHANGE_PURGE] = { true, false, false, 0 },
	[CHANGE_HEADER] = { true, false, true, 0 },
	[CHANGE_NAMES] = { true, false, true, 0 },
	[CHANGE_ANNOTS] = { true, false, false, 0 },
	[CHANGE_OWNER] = { true, false, true, 0 },
	[CHANGE_FILE] = { true, true, false, 0 },
	[CHANGE_DIR] = { true, true, false, 0 },
	[CHANGE_SYMLINK] = { true, true, false, 0 },
	[CHANGE_NODE] = { true, true, false, 0 },
	[CHANGE_DELETE] = { true, true, false, 0 },
	[CHANGE_MOVE] = { true, true, false, 0 },
	[CHANGE_SWAP] = { true, true, false, 0 },
	[CHANGE_BODY] = { true, false, false, 0 },
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static bool
has_before(unsigned flags, bool path)
{
	return !path && (flags & (BATCH_WHOLE | BATCH_DERIVED | BATCH_CREATE)) == 0;
}

static bool
has_after(unsigned flags, bool path)
{
	return !path && (flags & BATCH_REMOVE) == 0;
}

static bool
guid_zero(const uint8_t guid[SHA1_LEN])
{
	static const uint8_t zero[SHA1_LEN];

	return memcmp(guid, zero, SHA1_LEN) == 0;
}

/* ---- encode ---- */

static void
put_text(struct buf *out, const char *s)
{
	wr_blob(out, s, strlen(s));
}

static void
put_sum(struct buf *out, struct sum s)
{
	uint8_t p[SUM_LEN];

	sum_put(s, p);
	buf_put(out, p, SUM_LEN);
}

static void
put_record(struct buf *out, struct change_base *base, const struct change_record *c)
{
	unsigned extra = c->append ? REC_APPEND : 0;

	if (c->append && c->cache != NULL)
		extra |= REC_CACHE;
	if (c->append && c->ref_dir != NULL)
		extra |= REC_REF;
	if (c->append && c->elsewhere)
		extra |= REC_ELSEWHERE;
	wr_u8(out, (uint8_t)(CHANGE_RECORD | extra));
	change_record_put(out, base, &c->r,
		c->append ? change_append_mask(&c->r)
			  : c->mask & ~(uint64_t)CHANGE_RECORD_CACHE);
	if (extra & REC_CACHE)
		wr_blob(out, c->cache, c->cache_len);
	if (extra & REC_REF) {
		put_text(out, c->ref_dir);
		wr_varint(out, c->ref_uid);
	}
}

static void
put_annots(struct buf *out, struct change_base *base, const struct change_annots *c)
{
	wr_varint(out, c->uid);
	wr_varint(out, c->n);
	for (size_t i = 0; i < c->n; i++) {
		const struct change_annot *a = &c->list[i];
		put_text(out, a->entry);
		put_text(out, a->userid);
		wr_blob(out, a->value, a->value_len);
		wr_varint(out, a->modseq);
		wr_u8(out, a->flags);
	}
	(void)base;
}

static void
put_path(struct buf *out, struct change_base *base, enum change_kind kind,
	const struct change_path *c)
{
	put_text(out, c->path);
	if (kind == CHANGE_SYMLINK || kind == CHANGE_MOVE || kind == CHANGE_SWAP)
		put_text(out, c->target);
	if (kind == CHANGE_SWAP)
		wr_varint(out, c->rdev);
	if (kind == CHANGE_DELETE || kind == CHANGE_MOVE || kind == CHANGE_SWAP)
		return;
	wr_varint(out, c->uid);
	wr_varint(out, c->gid);
	wr_varint(out, c->mode);
	change_time_put(out, base, c->mtime);
	if (kind == CHANGE_NODE)
		wr_varint(out, c->rdev);
	if (kind == CHANGE_FILE) {
		wr_varint(out, c->size);
		buf_put(out, c->sha1, SHA1_LEN);
	}
}

static void
put_change(struct buf *out, struct change_base *base, const struct change *c)
{
	if (c->kind == CHANGE_RECORD) {
		put_record(out, base, &c->u.record);
		return;
	}
	wr_u8(out, (uint8_t)c->kind);
	switch (c->kind) {
	case CHANGE_RECORD:
		break;
	case CHANGE_PURGE:
		wr_varint(out, c->u.purge.uid);
		buf_put(out, c->u.purge.guid, SHA1_LEN);
		break;
	case CHANGE_HEADER:
		change_header_put(out, base, &c->u.header.h, c->u.header.mask);
		break;
	case CHANGE_NAMES:
		wr_blob(out, c->u.names.p, c->u.names.n);
		break;
	case CHANGE_ANNOTS:
		put_annots(out, base, &c->u.annots);
		break;
	case CHANGE_OWNER:
		wr_varint(out, c->u.owner.uid);
		wr_varint(out, c->u.owner.gid);
		wr_varint(out, c->u.owner.dir_mode);
		wr_varint(out, c->u.owner.index_mode);
		wr_varint(out, c->u.owner.cache_mode);
		wr_varint(out, c->u.owner.annot_mode);
		wr_varint(out, c->u.owner.message_mode);
		break;
	case CHANGE_BODY:
		wr_varint(out, c->u.body.uid);
		wr_varint(out, c->u.body.owner);
		wr_varint(out, c->u.body.group);
		wr_varint(out, c->u.body.mode);
		break;
	case CHANGE_FILE:
	case CHANGE_DIR:
	case CHANGE_SYMLINK:
	case CHANGE_NODE:
	case CHANGE_DELETE:
	case CHANGE_MOVE:
	case CHANGE_SWAP:
		put_path(out, base, c->kind, &c->u.path);
		break;
	}
}

int
batch_encode(const struct batch *b, struct buf *out)
{
	struct change_base base = { 0, 0, 0 };
	size_t start = out->len;
	bool path = b->dir[0] == '\0';
	unsigned flags = b->flags & FLAGS_STORED;

	if (b->from_dir != NULL)
		flags |= HAS_FROM;
	if (b->sync_basic != 0)
		flags |= HAS_BASIC;
	if (b->sync_annot != 0)
		flags |= HAS_ANNOT;
	wr_u8(out, VERSION);
	wr_varint(out, flags);
	put_text(out, b->dir);
	put_text(out, b->uniqueid);
	if (b->from_dir != NULL)
		put_text(out, b->from_dir);
	if (has_before(flags, path))
		put_sum(out, b->before);
	if (has_after(flags, path))
		put_sum(out, b->after);
	if (flags & HAS_BASIC)
		wr_be32(out, b->sync_basic);
	if (flags & HAS_ANNOT)
		wr_be32(out, b->sync_annot);
	wr_varint(out, b->n);
	for (size_t i = 0; i < b->n; i++) {
		put_change(out, &base, &b->changes[i]);
		if (out->len - start > BATCH_MAX)
			return ERR_LIMIT;
	}
	return buf_ok(out);
}

/* ---- decode ---- */

struct in {
	struct rd rd;
	struct batch *b;
	struct change_base base;
	int rc; /* why the cursor failed, if not for the bytes themselves */
};

static void
bad(struct in *in, int rc)
{
	in->rd.failed = true;
	if (in->rc == 0)
		in->rc = rc;
}

/* A string without NUL, at most max bytes, copied so that it ends in NUL. */
static const char *
get_text(struct in *in, size_t max)
{
	size_t n;
	const uint8_t *p = rd_blob(&in->rd, max, &n);

	if (p == NULL)
		return "";
	if (memchr(p, 0, n) != NULL) {
		bad(in, ERR_MANGLED);
		return "";
	}
	const char *s = batch_keep(in->b, p, n);
	if (s == NULL) {
		bad(in, ERR_NOMEM);
		return "";
	}
	return s;
}

/* A path inside the spool: no empty, "." or ".." component. */
static const char *
get_path(struct in *in)
{
	const char *s = get_text(in, BATCH_MAX_PATH - 1);
	const char *at = s;

	while (rd_ok(&in->rd)) {
		size_t n = strcspn(at, "/");
		if (n == 0 || (n == 1 && at[0] == '.') ||
			(n == 2 && at[0] == '.' && at[1] == '.'))
			bad(in, ERR_MANGLED);
		if (at[n] == '\0')
			break;
		at += n + 1;
	}
	return s;
}

static struct sum
get_sum(struct in *in)
{
	const uint8_t *p = rd_bytes(&in->rd, SUM_LEN);

	return p != NULL ? sum_get(p) : (struct sum){ 0, 0 };
}

static void
get_guid(struct in *in, uint8_t out[SHA1_LEN])
{
	const uint8_t *p = rd_bytes(&in->rd, SHA1_LEN);

	if (p != NULL)
		memcpy(out, p, SHA1_LEN);
}

static void
get_record(struct in *in, unsigned extra, struct change_record *c)
{
	c->append = (extra & REC_APPEND) != 0;
	if (!c->append && extra != 0)
		bad(in, ERR_MANGLED);
	c->mask = change_record_get(&in->rd, &in->base, &c->r);
	if (!c->append && (c->mask & CHANGE_RECORD_CACHE) != 0)
		bad(in, ERR_MANGLED);
	/* A damaged byte must not become an expunge: that names its message twice. */
	bool removes = (c->mask & CHANGE_RECORD_FLAGS) != 0 &&
		       (c->r.flags & (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)) != 0;
	if ((c->append || removes) &&
		((c->mask & CHANGE_RECORD_GUID) == 0 || guid_zero(c->r.guid)))
		bad(in, ERR_MANGLED);
	if (extra & REC_CACHE) {
		c->cache = rd_blob(&in->rd, CACHE_MAX_RECORD, &c->cache_len);
		if (c->cache != NULL && c->cache_len == 0)
			bad(in, ERR_MANGLED);
	}
	if (extra & REC_REF) {
		c->ref_dir = get_path(in);
		c->ref_uid = (uint32_t)rd_varint_max(&in->rd, UINT32_MAX);
	}
	c->elsewhere = (extra & REC_ELSEWHERE) != 0;
	if (c->elsewhere && (c->r.flags & INDEX_FLAG_ARCHIVED) == 0)
		bad(in, ERR_MANGLED);
	if (c->append)
		c->mask = CHANGE_ALL;
}

static void
get_annots(struct in *in, struct change_annots *c)
{
	c->uid = (uint32_t)rd_varint_max(&in->rd, UINT32_MAX);
	c->n = (size_t)rd_varint_max(&in->rd, MAX_ANNOTS);
	/* Each takes at least five bytes, so the input bounds the memory. */
	if (c->n > rd_left(&in->rd) / 5 || (c->uid == 0 && c->n != 0))
		bad(in, ERR_MANGLED);
	if (!rd_ok(&in->rd)) {
		c->n = 0;
		return;
	}
	c->list = batch_room(in->b, c->n * sizeof(*c->list));
	if (c->list == NULL) {
		c->n = 0;
		bad(in, ERR_NOMEM);
		return;
	}
	for (size_t i = 0; i < c->n; i++) {
		struct change_annot *a = &c->list[i];
		a->entry = get_text(in, MAX_ENTRY);
		a->userid = get_text(in, MAX_ENTRY);
		a->value = rd_blob(&in->rd, MAX_VALUE, &a->value_len);
		a->modseq = rd_varint(&in->rd);
		a->flags = rd_u8(&in->rd);
	}
}

static uint32_t
get_u32(struct in *in)
{
	return (uint32_t)rd_varint_max(&in->rd, UINT32_MAX);
}

static uint32_t
get_mode(struct in *in)
{
	return (uint32_t)rd_varint_max(&in->rd, 07777);
}

static void
get_path_change(struct in *in, enum change_kind kind, struct change_path *c)
{
	c->path = get_path(in);
	if (kind == CHANGE_MOVE || kind == CHANGE_SWAP)
		c->target = get_path(in);
	else if (kind == CHANGE_SYMLINK)
		c->target = get_text(in, BATCH_MAX_PATH - 1);
	if (kind == CHANGE_SWAP)
		c->rdev = rd_varint(&in->rd);
	if (kind == CHANGE_DELETE || kind == CHANGE_MOVE || kind == CHANGE_SWAP)
		return;
	c->uid = get_u32(in);
	c->gid = get_u32(in);
	c->mode = (uint32_t)rd_varint_max(&in->rd, 0177777);
	c->mtime = change_time_get(&in->rd, &in->base);
	if (kind == CHANGE_NODE)
		c->rdev = rd_varint(&in->rd);
	if (kind == CHANGE_FILE) {
		c->size = rd_varint_max(&in->rd, INT64_MAX);
		get_guid(in, c->sha1);
	}
}

static void
get_change(struct in *in, uint64_t *seen)
{
	unsigned first = rd_u8(&in->rd), kind = first & 0x0f, extra = first & 0xf0;
	bool path = in->b->dir[0] == '\0';

	if (!rd_ok(&in->rd))
		return;
	if (kind >= N_KINDS || !kinds[kind].known ||
		(extra & ~(unsigned)kinds[kind].extra) != 0) {
		bad(in, ERR_VERSION);
		return;
	}
	if (kinds[kind].of_path != path ||
		(kinds[kind].once && (*seen >> kind & 1) != 0)) {
		bad(in, ERR_MANGLED);
		return;
	}
	*seen |= (uint64_t)1 << kind;
	struct change *c = batch_add(in->b, (enum change_kind)kind);
	if (c == NULL) {
		bad(in, ERR_NOMEM);
		return;
	}
	switch (c->kind) {
	case CHANGE_RECORD:
		get_record(in, extra, &c->u.record);
		break;
	case CHANGE_PURGE:
		c->u.purge.uid = get_u32(in);
		get_guid(in, c->u.purge.guid);
		if (c->u.purge.uid == 0 ||
			(guid_zero(c->u.purge.guid) &&
				(in->b->flags & (BATCH_DERIVED | BATCH_WHOLE)) == 0))
			bad(in, ERR_MANGLED);
		break;
	case CHANGE_HEADER:
		c->u.header.mask =
			change_header_get(&in->rd, &in->base, &c->u.header.h);
		break;
	case CHANGE_NAMES:
		c->u.names.p = rd_blob(&in->rd, HEADER_MAX_FILE, &c->u.names.n);
		break;
	case CHANGE_ANNOTS:
		get_annots(in, &c->u.annots);
		break;
	case CHANGE_OWNER:
		c->u.owner.uid = get_u32(in);
		c->u.owner.gid = get_u32(in);
		c->u.owner.dir_mode = get_mode(in);
		c->u.owner.index_mode = get_mode(in);
		c->u.owner.cache_mode = get_mode(in);
		c->u.owner.annot_mode = get_mode(in);
		c->u.owner.message_mode = get_mode(in);
		break;
	case CHANGE_BODY:
		c->u.body.uid = get_u32(in);
		c->u.body.owner = get_u32(in);
		c->u.body.group = get_u32(in);
		c->u.body.mode = get_mode(in);
		break;
	case CHANGE_FILE:
	case CHANGE_DIR:
	case CHANGE_SYMLINK:
	case CHANGE_NODE:
	case CHANGE_DELETE:
	case CHANGE_MOVE:
	case CHANGE_SWAP:
		get_path_change(in, c->kind, &c->u.path);
		break;
	}
}

/* Version, flags and names. */
static unsigned
get_front(struct in *in)
{
	struct batch *b = in->b;

	if (rd_u8(&in->rd) != VERSION && rd_ok(&in->rd))
		bad(in, ERR_VERSION);
	uint64_t flags = rd_varint(&in->rd);
	if ((flags & ~(uint64_t)FLAGS_KNOWN) != 0)
		bad(in, ERR_VERSION);
	b->flags = (unsigned)flags & FLAGS_STORED;
	/* An empty name stands for a batch about paths. */
	if (rd_left(&in->rd) > 0 && *in->rd.p == 0)
		rd_u8(&in->rd);
	else
		b->dir = get_path(in);
	b->uniqueid = get_text(in, MAX_UNIQUEID);
	bool path = b->dir[0] == '\0';
	if (path && (b->uniqueid[0] != '\0' || flags != 0))
		bad(in, ERR_MANGLED);
	return (unsigned)flags;
}

static int
finish(struct in *in, bool ok)
{
	if (ok)
		return 0;
	batch_fini(in->b);
	return in->rc != 0 ? in->rc : ERR_MANGLED;
}

int
batch_peek(const void *p, size_t n, struct batch *out)
{
	struct in in = { .rd = rd_over(p, n), .b = out };

	batch_init(out);
	get_front(&in);
	return finish(&in, rd_ok(&in.rd));
}

int
batch_decode(const void *p, size_t n, struct batch *out)
{
	struct in in = { .rd = rd_over(p, n), .b = out };
	uint64_t seen = 0;

	batch_init(out);
	if (n > BATCH_MAX + 65536)
		return ERR_LIMIT;
	unsigned flags = get_front(&in);
	bool path = out->dir[0] == '\0';
	if (flags & HAS_FROM)
		out->from_dir = get_path(&in);
	if (has_before(flags, path))
		out->before = get_sum(&in);
	if (has_after(flags, path))
		out->after = get_sum(&in);
	if (flags & HAS_BASIC)
		out->sync_basic = rd_be32(&in.rd);
	if (flags & HAS_ANNOT)
		out->sync_annot = rd_be32(&in.rd);
	uint64_t count = rd_varint_max(&in.rd, BATCH_MAX_CHANGES);
	if ((flags & BATCH_REMOVE) && count != 0)
		bad(&in, ERR_MANGLED);
	for (uint64_t i = 0; i < count && rd_ok(&in.rd); i++)
		get_change(&in, &seen);
	return finish(&in, rd_done(&in.rd));
}

/* ---- questions ---- */

bool
batch_has_before(const struct batch *b)
{
	return has_before(b->flags, b->dir[0] == '\0');
}

bool
batch_has_after(const struct batch *b)
{
	return has_after(b->flags, b->dir[0] == '\0');
}

/* A derived batch says "append" of every record that it states. The first one of a mailbox states
 * expunged ones in plenty, and nothing goes with those: so only UNLINKED counts there. */
static bool
record_removes(const struct batch *b, const struct change_record *c)
{
	if (c->append)
		return (b->flags & (BATCH_DERIVED | BATCH_CREATE)) == BATCH_DERIVED &&
		       (c->r.flags & INDEX_FLAG_UNLINKED) != 0;
	return (c->mask & CHANGE_RECORD_FLAGS) != 0 &&
	       (c->r.flags & (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)) != 0;
}

bool
batch_removes(const struct batch *b)
{
	if (b->flags & (BATCH_REMOVE | BATCH_WHOLE))
		return true;
	for (size_t i = 0; i < b->n; i++) {
		const struct change *c = &b->changes[i];
		if (c->kind == CHANGE_PURGE || c->kind == CHANGE_DELETE)
			return true;
		if (c->kind == CHANGE_RECORD && record_removes(b, &c->u.record))
			return true;
	}
	return false;
}
