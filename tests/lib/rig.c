#include "tests/lib/rig.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/cache.h"
#include "meta/header.h"
#include "meta/scan.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define NS 1000000000ull
#define MODE 0640

static void
must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "rig: %s: %s\n", what, err_text(rc));
	abort();
}

static uint64_t
below(uint64_t n)
{
	return t_rand() % n;
}

/* Cyrus's clock of the rig: it only goes forward. */
static uint64_t
now_ns(void)
{
	static uint64_t seconds = 1700000000;

	seconds += below(3);
	return seconds * NS;
}

void
rig_init(struct rig *g, struct spool *sp, const char *dir, const char *id,
	uint32_t minor)
{
	memset(g, 0, sizeof(*g));
	g->sp = sp;
	snprintf(g->dir, sizeof(g->dir), "%s", dir);
	snprintf(g->uniqueid, sizeof(g->uniqueid), "%s", id);
	g->h.minor_version = minor;
	g->h.start_offset = (uint32_t)index_header_size(minor);
	g->h.record_size = (uint32_t)index_record_size(minor);
	g->h.uidvalidity = 1600000000;
	g->h.highestmodseq = 1;
	g->h.createdmodseq = minor >= 16 ? 1 : 0;
	g->h.changes_epoch = minor >= 17 ? 1600000000 * NS : 0;
	g->h.generation_no = (uint32_t)below(3);
}

void
rig_fini(struct rig *g)
{
	free(g->old_index);
	g->old_index = NULL;
}

static struct index_record *
find(struct rig *g, uint32_t uid)
{
	for (uint32_t i = 0; i < g->h.num_records; i++)
		if (g->rec[i].uid == uid)
			return &g->rec[i];
	fprintf(stderr, "rig: no UID %u\n", uid);
	abort();
}

/* Notes a record as touched, with what it was at the last delta. */
static struct index_record *
touch(struct rig *g, uint32_t uid)
{
	struct index_record *r = find(g, uid);
	uint32_t recno = (uint32_t)(r - g->rec);

	for (size_t i = 0; i < g->n_touched; i++)
		if (g->touched[i].recno == recno)
			return r;
	struct mbox_touched *t = &g->touched[g->n_touched++];
	t->recno = recno;
	t->had = recno < g->state.header.num_records;
	t->before = *r;
	return r;
}

static void
bump(struct rig *g, struct index_record *r)
{
	r->modseq = ++g->h.highestmodseq;
	r->last_updated = now_ns();
}

/* ---- writing ---- */

static void
write_names(struct rig *g)
{
	static char type[] = "e", name[] = "user.rig.box", root[] = "user.rig";
	static char id[] = "rig", rights[] = "lrswipkxtecdan", any[] = "anyone",
		    post[] = "p";
	struct header_acl acl[] = { { id, rights }, { any, post } };
	struct header hd = { .old_form = g->h.minor_version < 17,
		.type = type,
		.name = name,
		.uniqueid = g->uniqueid,
		.quotaroot = root,
		.acl = acl,
		.n_acl = 2 };
	struct buf out = BUF_INIT;

	for (size_t i = 0; i < g->n_keywords; i++)
		hd.flags[i] = g->keywords[i];
	must(header_encode(&hd, &out), "header_encode");
	must(spool_replace(
		     g->sp, g->dir, "cyrus.header", out.data, out.len, MODE, 8, 8),
		"cyrus.header");
	g->h.header_file_crc =
		g->h.minor_version >= 12 ? hash_crc32(0, out.data, out.len) : 0;
	buf_fini(&out);
}

static void
list_annots(struct rig *g, struct scan_annots *a)
{
	memset(a, 0, sizeof(*a));
	for (size_t i = 0; i < g->n_annots; i++) {
		const struct rig_annot *x = &g->annots[i];
		struct db_annot y = { .uid = x->uid,
			.entry = x->entry,
			.userid = x->userid,
			.value = (const uint8_t *)x->value,
			.value_len = strlen(x->value),
			.modseq = x->modseq,
			.flags = x->flags };
		must(scan_annots_add(a, &y), "annotation");
	}
	scan_annots_sort(a);
}

static void
write_annots(struct rig *g)
{
	struct scan_annots a;
	struct buf out = BUF_INIT;

	list_annots(g, &a);
	must(scan_annots_build(&a, &out), "scan_annots_build");
	must(spool_replace(g->sp, g->dir, "cyrus.annotations", out.data, out.len,
		     MODE & 0644, 8, 8),
		"cyrus.annotations");
	scan_annots_close(&a);
	buf_fini(&out);
}

/* Counters and Cyrus's sums, worked out here once more and not by scan.c's tally. */
static void
count(struct rig *g)
{
	const char *flags[INDEX_USER_FLAGS] = { NULL };
	struct index_header *h = &g->h;
	static char name[] = "user.rig.box";
	struct header named = { .name = name };
	char owner[200];

	h->exists = h->deleted = h->answered = h->flagged = h->unseen = 0;
	h->quota_mailbox_used = h->quota_annot_used = 0;
	h->quota_deleted_used = h->quota_expunged_used = 0;
	h->sync_basic = 0;
	h->sync_annot = INDEX_CRC_ANNOT_START;
	header_owner(&named, g->dir, owner, sizeof(owner));
	for (size_t i = 0; i < g->n_keywords; i++)
		flags[i] = g->keywords[i];
	for (uint32_t i = 0; i < h->num_records; i++) {
		const struct index_record *r = &g->rec[i];
		if (r->flags & INDEX_FLAG_EXPUNGED) {
			if ((r->flags & INDEX_FLAG_UNLINKED) == 0)
				h->quota_expunged_used += r->size;
			continue;
		}
		if (r->flags & INDEX_FLAG_DELETED)
			h->quota_deleted_used += r->size;
		h->exists++;
		h->deleted += (r->flags & INDEX_FLAG_DELETED) != 0;
		h->answered += (r->flags & INDEX_FLAG_ANSWERED) != 0;
		h->flagged += (r->flags & INDEX_FLAG_FLAGGED) != 0;
		h->unseen += (r->flags & INDEX_FLAG_SEEN) == 0;
		h->quota_mailbox_used += r->size;
		h->sync_basic ^= index_crc_basic(r, flags);
		h->sync_annot ^= index_crc_virtual(h->minor_version, r);
		for (size_t k = 0; k < g->n_annots; k++) {
			const struct rig_annot *a = &g->annots[k];
			size_t n = strlen(a->value);
			if (a->uid != r->uid || (a->flags & 1) || n == 0)
				continue;
			h->quota_annot_used += n;
			h->sync_annot ^= index_crc_annot(r->uid, a->entry,
				strcmp(a->userid, "[.OwNeR.]") == 0 ? owner : a->userid,
				a->value, n);
		}
	}
}

static void
index_bytes(struct rig *g, struct buf *out)
{
	uint8_t p[INDEX_MAX_HEADER];

	must(index_header_encode(&g->h, p), "index_header_encode");
	buf_put(out, p, g->h.start_offset);
	for (uint32_t i = 0; i < g->h.num_records; i++) {
		must(index_record_encode(g->h.minor_version, &g->rec[i], p),
			"index_record_encode");
		buf_put(out, p, g->h.record_size);
		/* What the version lacks is gone. */
		must(index_record_decode(g->h.minor_version, p, &g->rec[i]),
			"index_record_decode");
	}
	must(index_header_decode(out->data, out->len, &g->h), "index_header_decode");
}

void
rig_commit(struct rig *g)
{
	struct buf out = BUF_INIT;
	int fd;

	count(g);
	index_bytes(g, &out);
	must(spool_file(g->sp, g->dir, "cyrus.index", O_RDWR, 0, &fd), "cyrus.index");
	must(spool_write(g->sp, fd, out.data, out.len, 0), "cyrus.index");
	close(fd);
	buf_fini(&out);
}

void
rig_create(struct rig *g)
{
	must(spool_mkdirs(g->sp, g->dir, 0750, 8, 8), "mkdir");
	must(spool_replace(g->sp, g->dir, "cyrus.index", "", 0, MODE, 8, 8),
		"cyrus.index");
	write_names(g);
	g->exists = true;
	rig_commit(g);
}

/* ---- changes ---- */

static void
add_cache(struct rig *g, struct index_record *r, uint64_t at)
{
	struct buf out = BUF_INIT;
	struct stat st;
	int fd;

	if (spool_stat(g->sp, g->dir, "cyrus.cache", &st) != 0) {
		wr_be32(&out, g->h.generation_no);
		must(spool_replace(g->sp, g->dir, "cyrus.cache", out.data, out.len,
			     MODE & 0644, 8, 8),
			"cyrus.cache");
		buf_clear(&out);
		st.st_size = 4;
	}
	for (int i = 0; i < 10; i++) {
		size_t n = below(30);
		wr_be32(&out, (uint32_t)n);
		for (size_t k = 0; k < (n + 3) / 4 * 4; k++)
			wr_u8(&out, k < n ? (uint8_t)t_rand() : 0);
	}
	r->cache_version = 11;
	r->cache_crc = hash_crc32(0, out.data, out.len);
	r->cache_offset = (uint64_t)st.st_size;
	must(spool_file(g->sp, g->dir, "cyrus.cache", O_RDWR, 0, &fd), "cyrus.cache");
	must(spool_write(g->sp, fd, out.data, out.len, (uint64_t)st.st_size),
		"cyrus.cache");
	close(fd);
	buf_fini(&out);
	(void)at;
}

static struct index_record *
new_record(struct rig *g)
{
	if (g->h.num_records == RIG_MAX)
		abort();
	uint32_t recno = g->h.num_records++;
	struct index_record *r = &g->rec[recno];
	memset(r, 0, sizeof(*r));
	r->uid = ++g->h.last_uid;
	struct mbox_touched *t = &g->touched[g->n_touched++];
	t->recno = recno;
	t->had = false;
	bump(g, r);
	r->createdmodseq = g->h.minor_version >= 16 ? r->modseq : 0;
	g->h.last_appenddate = r->last_updated;
	return r;
}

uint32_t
rig_append(struct rig *g, size_t size)
{
	struct index_record *r = new_record(g);
	char *text = malloc(size + 100), name[SCAN_BODY_NAME];
	int n = snprintf(text, size + 100, "From: rig\r\nX: %llu\r\n\r\n",
		(unsigned long long)t_rand());

	int head = n;
	for (size_t i = 0; i < size; i++)
		text[n++] = (char)(g->noise ? t_rand() : 'a' + i % 26);
	r->size = (uint64_t)n;
	r->header_size = (uint32_t)head;
	hash_sha1(text, (size_t)n, r->guid);
	r->internaldate = now_ns();
	r->sentdate = r->internaldate - below(100000) * NS;
	r->gmtime = r->internaldate;
	r->savedate = g->h.minor_version >= 15 ? r->last_updated : 0;
	r->cid = g->h.minor_version >= 13 && below(2) ? t_rand() : 0;
	r->flags = below(3) == 0 ? INDEX_FLAG_SEEN : 0;
	scan_body_name(r->uid, name);
	must(spool_replace(g->sp, g->dir, name, text, (size_t)n, MODE, 8, 8), name);
	must(spool_attrs(g->sp, g->dir, name, SPOOL_KEEP, SPOOL_KEEP, SPOOL_KEEP,
		     r->internaldate),
		name);
	add_cache(g, r, 0);
	free(text);
	return r->uid;
}

uint32_t
rig_copy(struct rig *g, const struct rig *from, uint32_t uid)
{
	char a[SCAN_BODY_NAME], b[SCAN_BODY_NAME];
	struct index_record *r = new_record(g), keep = *r;

	*r = *find((struct rig *)(uintptr_t)from, uid);
	r->uid = keep.uid;
	r->modseq = keep.modseq;
	r->createdmodseq = keep.createdmodseq;
	r->last_updated = keep.last_updated;
	memset(r->user_flags, 0, sizeof(r->user_flags));
	must(spool_link(g->sp, from->dir, scan_body_name(uid, a), g->dir,
		     scan_body_name(r->uid, b)),
		"link");
	add_cache(g, r, 0);
	return r->uid;
}

void
rig_flag(struct rig *g, uint32_t uid, uint32_t toggle)
{
	struct index_record *r = touch(g, uid);

	r->flags ^= toggle;
	bump(g, r);
}

void
rig_keyword(struct rig *g, uint32_t uid, const char *name)
{
	size_t i = 0;

	while (i < g->n_keywords && strcmp(g->keywords[i], name) != 0)
		i++;
	if (i == g->n_keywords) {
		snprintf(g->keywords[g->n_keywords++], sizeof(g->keywords[0]), "%s",
			name);
		write_names(g);
	}
	struct index_record *r = touch(g, uid);
	r->user_flags[i / 32] ^= 1u << i % 32;
	bump(g, r);
}

void
rig_expunge(struct rig *g, uint32_t uid)
{
	struct index_record *r = touch(g, uid);

	r->flags |= INDEX_FLAG_EXPUNGED | INDEX_FLAG_DELETED;
	bump(g, r);
	if (g->h.first_expunged == 0)
		g->h.first_expunged = r->last_updated;
}

void
rig_unlink(struct rig *g, uint32_t uid)
{
	touch(g, uid)->flags |= INDEX_FLAG_UNLINKED | INDEX_FLAG_NEEDS_CLEANUP;
	g->h.options |= INDEX_OPT_NEEDS_UNLINK | INDEX_OPT_NEEDS_REPACK;
}

void
rig_annotate(struct rig *g, uint32_t uid, const char *entry, const char *value)
{
	struct index_record *r = touch(g, uid);
	size_t i = 0;

	bump(g, r);
	while (i < g->n_annots &&
		(g->annots[i].uid != uid || strcmp(g->annots[i].entry, entry) != 0))
		i++;
	if (i == RIG_MAX_ANNOTS)
		abort();
	struct rig_annot *a = &g->annots[i];
	if (i == g->n_annots)
		g->n_annots++;
	memset(a, 0, sizeof(*a));
	a->uid = uid;
	a->modseq = r->modseq;
	a->flags = value == NULL;
	snprintf(a->entry, sizeof(a->entry), "%s", entry);
	snprintf(a->userid, sizeof(a->userid), "%s", uid % 2 ? "" : "[.OwNeR.]");
	snprintf(a->value, sizeof(a->value), "%s", value != NULL ? value : "");
	write_annots(g);
	g->annots_touched = true;
}

void
rig_select(struct rig *g)
{
	g->h.recentuid = g->h.last_uid;
	g->h.recenttime = now_ns();
}

void
rig_options(struct rig *g, uint32_t options)
{
	g->h.options = options;
}

/* The cache records of what is left, one after the other. */
static void
pack_cache(struct rig *g)
{
	struct buf out = BUF_INIT;
	uint8_t *p;
	size_t len;
	int fd;

	if (spool_file(g->sp, g->dir, "cyrus.cache", O_RDONLY, 0, &fd) != 0)
		return;
	wr_be32(&out, g->h.generation_no);
	for (uint32_t i = 0; i < g->h.num_records; i++) {
		struct index_record *r = &g->rec[i];
		must(cache_record_read(fd, r->cache_offset, r->cache_crc, &p, &len),
			"cyrus.cache");
		r->cache_offset = out.len;
		buf_put(&out, p, len);
		free(p);
	}
	close(fd);
	must(spool_replace(g->sp, g->dir, "cyrus.cache", out.data, out.len, MODE & 0644,
		     8, 8),
		"cyrus.cache");
	buf_fini(&out);
}

void
rig_repack(struct rig *g, uint32_t minor)
{
	struct buf old = BUF_INIT, out = BUF_INIT;
	size_t n_annots = g->n_annots;
	uint32_t n = 0;

	must(spool_read(g->sp, g->dir, "cyrus.index", 1u << 30, &old, NULL), "index");
	if (g->old_index == NULL) {
		g->old_index = malloc(old.len);
		memcpy(g->old_index, old.data, old.len);
		g->old_size = old.len;
	}
	buf_fini(&old);
	for (uint32_t i = 0; i < g->h.num_records; i++) {
		char name[SCAN_BODY_NAME];
		if ((g->rec[i].flags & INDEX_FLAG_UNLINKED) == 0) {
			g->rec[n++] = g->rec[i];
			continue;
		}
		/* As the mount does for a peer that has not confirmed it. */
		(void)spool_keep(g->sp, g->rec[i].guid, g->dir,
			scan_body_name(g->rec[i].uid, name));
		(void)spool_unlink(g->sp, g->dir, name);
		if (g->h.deletedmodseq < g->rec[i].modseq)
			g->h.deletedmodseq = g->rec[i].modseq;
		for (size_t k = 0; k < g->n_annots; k++)
			if (g->annots[k].uid == g->rec[i].uid)
				g->annots[k--] = g->annots[--g->n_annots];
	}
	if (n_annots != g->n_annots)
		write_annots(g);
	g->h.num_records = n;
	g->h.generation_no++;
	pack_cache(g);
	g->h.last_repack_time = now_ns();
	g->h.options &= ~(INDEX_OPT_NEEDS_REPACK | INDEX_OPT_NEEDS_UNLINK);
	if (minor != 0) {
		g->h.minor_version = minor;
		g->h.start_offset = (uint32_t)index_header_size(minor);
		g->h.record_size = (uint32_t)index_record_size(minor);
	}
	count(g);
	index_bytes(g, &out);
	/* The version may hold less: Cyrus counts again. */
	count(g);
	buf_clear(&out);
	index_bytes(g, &out);
	must(spool_replace(g->sp, g->dir, "cyrus.index", out.data, out.len, MODE, 8, 8),
		"index");
	buf_fini(&out);
	g->n_touched = 0;
}

uint32_t
rig_any(const struct rig *g)
{
	uint32_t n = g->h.num_records, from = n > 0 ? below(n) : 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct index_record *r = &g->rec[(from + i) % n];
		if ((r->flags & INDEX_FLAG_EXPUNGED) == 0)
			return r->uid;
	}
	return 0;
}

void
rig_random(struct rig *g)
{
	static const char *const words[] = { "$Forwarded", "Junk", "todo", "x1" };
	static const uint32_t flags[] = { INDEX_FLAG_SEEN, INDEX_FLAG_FLAGGED,
		INDEX_FLAG_ANSWERED, INDEX_FLAG_DELETED, INDEX_FLAG_DRAFT };
	char value[20];
	uint32_t uid;

	if (g->n_touched + 10 > RIG_MAX || g->h.num_records + 10 > RIG_MAX)
		return;
	for (uint64_t n = 1 + below(4); n > 0; n--) {
		uid = rig_any(g);
		switch (uid == 0 ? 0 : below(10)) {
		case 0:
		case 1:
		case 2:
			rig_append(g, 1 + below(300));
			break;
		case 3:
		case 4:
			rig_flag(g, uid, flags[below(5)]);
			break;
		case 5:
			rig_keyword(g, uid, words[below(4)]);
			break;
		case 6:
			rig_expunge(g, uid);
			break;
		case 7:
			rig_select(g);
			break;
		case 8:
			if (g->n_annots + 1 < RIG_MAX_ANNOTS) {
				snprintf(value, sizeof(value), "v%llu",
					(unsigned long long)below(1000));
				rig_annotate(g, uid, below(2) ? "/comment" : "/x",
					below(4) ? value : NULL);
			}
			break;
		default:
			for (uint32_t i = 0; i < g->h.num_records; i++)
				if ((g->rec[i].flags & INDEX_FLAG_EXPUNGED) && below(2))
					rig_unlink(g, g->rec[i].uid);
			break;
		}
	}
	rig_commit(g);
}

int
rig_delta(struct rig *g, struct buf *raw, struct batch *out)
{
	struct mbox_delta d = { .dir = g->dir,
		.before = g->state.header.minor_version ? &g->state : NULL,
		.touched = g->touched,
		.n_touched = g->n_touched,
		.annots = g->annots_touched };
	struct mbox_fault fault = { .uid = 0 };
	struct mbox_state state;
	struct batch b;
	int rc;

	rc = mbox_delta(g->sp, &d, g->old_index, g->old_size, &b, &state, &fault);
	if (rc == 0 || rc == ERR_NOTFOUND)
		g->state = state;
	else
		fprintf(stderr, "# delta: %s: %s: %s\n", err_text(rc), fault.check,
			fault.text);
	g->n_touched = 0;
	g->annots_touched = false;
	free(g->old_index);
	g->old_index = NULL;
	if (rc != 0)
		return rc;
	buf_clear(raw);
	rc = batch_encode(&b, raw);
	batch_fini(&b);
	return rc != 0 ? rc : batch_decode(raw->data, raw->len, out);
}
