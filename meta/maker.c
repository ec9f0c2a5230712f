/*
 * maker.c - the single changes of a batch that is being made, each checked before it is stated.
 */
#include "meta/maker.h"

#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/cache.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Cache records carried in one batch, so that the others still fit. Without one the peer's Cyrus
 * parses the message when it is asked. */
#define CACHE_BUDGET ((size_t)32 << 20)

/* A cache that is cut or overwritten fails for many records at once: one line tells of them. */
static void
note_bad_cache(struct maker *m, uint32_t uid, int rc)
{
	if (rc != ERR_MANGLED && rc != ERR_CHECKSUM)
		return;
	if (!m->cache_bad)
		log_warn("damaged in cyrus.cache, the message travels without its "
			 "record: dir=%s uid=%" PRIu32 ": %s",
			m->dir, uid, err_text(rc));
	m->cache_bad = true;
}

static void
add_cache(struct maker *m, struct change_record *c, uint64_t offset)
{
	uint8_t *p = NULL;
	size_t n = 0;
	int rc;

	if (m->cache_fd == -1 && spool_file(m->sp, m->dir, "cyrus.cache", O_RDONLY, 0,
					 &m->cache_fd) != 0)
		m->cache_fd = -2;
	/* A directory that was renamed has it at the peer as well. */
	if (m->cache_fd >= 0 && m->from_dir == NULL &&
		(c->r.cache_crc != 0 || m->no_cache_crc) &&
		m->cache_bytes < CACHE_BUDGET) {
		rc = cache_record_read(m->cache_fd, offset, c->r.cache_crc, &p, &n);
		if (rc == 0) {
			c->cache = batch_keep(m->out, p, n);
			c->cache_len = n;
			if (c->r.cache_crc == 0)
				c->r.cache_crc = hash_crc32(0, p, n);
			m->cache_bytes += n;
			free(p);
		} else if (offset != 0 && c->r.cache_crc != 0 &&
			   (c->r.flags & (INDEX_FLAG_UNLINKED | INDEX_FLAG_ARCHIVED)) ==
				   0) {
			note_bad_cache(m, c->r.uid, rc);
		}
	}
	if (c->cache == NULL && m->from_dir == NULL)
		c->r.cache_crc = c->r.cache_version = 0;
}

static int
name_record(struct maker *m, enum change_kind kind, struct change **out)
{
	if (m->limit > 0 && m->records == m->limit)
		return ERR_LIMIT;
	m->records++;
	*out = batch_add(m->out, kind);
	return *out != NULL ? 0 : ERR_NOMEM;
}

int
maker_append(struct maker *m, const struct index_record *r)
{
	char ref_dir[BATCH_MAX_PATH];
	char name[SCAN_BODY_NAME];
	struct stat st;
	int rc;

	bool linked = (r->flags & INDEX_FLAG_UNLINKED) == 0;
	if (linked && m->at < 0) {
		rc = spool_file(m->sp, m->dir, NULL, O_PATH | O_DIRECTORY, 0, &m->at);
		if (rc != 0)
			return rc;
	}
	bool elsewhere = (r->flags & INDEX_FLAG_ARCHIVED) != 0 &&
			 spool_stat(m->sp, m->dir, scan_body_name(r->uid, name), &st) ==
				 ERR_NOTFOUND;
	if (linked && !elsewhere) {
		rc = scan_body_check_at(m->at, r, &st, m->fault);
		if (rc != 0)
			return rc;
	}
	struct change *c;
	if ((rc = name_record(m, CHANGE_RECORD, &c)) != 0)
		return rc;
	struct change_record *cr = &c->u.record;
	cr->append = true;
	cr->elsewhere = elsewhere;
	cr->mask = CHANGE_ALL;
	cr->r = *r;
	cr->r.cache_offset = 0;
	if (linked && !elsewhere)
		cr->file = (struct change_body){ r->uid, st.st_uid, st.st_gid,
			st.st_mode & 07777 };
	add_cache(m, cr, r->cache_offset);
	if (m->ref != NULL && linked && !elsewhere && st.st_nlink > 1 &&
		m->ref(m->ref_arg, m->dir, r->uid, st.st_ino, ref_dir, &cr->ref_uid)) {
		cr->ref_dir = batch_keep(m->out, ref_dir, strlen(ref_dir));
		if (cr->ref_dir == NULL)
			return ERR_NOMEM;
	}
	return 0;
}

int
maker_update(struct maker *m, const struct index_record *r, uint64_t mask)
{
	if ((mask & CHANGE_RECORD_FLAGS) != 0 &&
		(r->flags & (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)) != 0)
		mask |= CHANGE_RECORD_GUID;
	struct change *c;
	int rc = name_record(m, CHANGE_RECORD, &c);
	if (rc != 0)
		return rc;
	c->u.record.r = *r;
	c->u.record.r.cache_offset = 0;
	c->u.record.mask = mask & ~(uint64_t)CHANGE_RECORD_CACHE;
	return 0;
}

int
maker_purge(struct maker *m, uint32_t uid, const uint8_t *guid)
{
	struct change *c;
	int rc = name_record(m, CHANGE_PURGE, &c);

	if (rc != 0)
		return rc;
	c->u.purge.uid = uid;
	if (guid != NULL)
		memcpy(c->u.purge.guid, guid, SHA1_LEN);
	return 0;
}

int
maker_names(struct maker *m, const struct buf *file)
{
	struct change *c = batch_add(m->out, CHANGE_NAMES);

	if (c == NULL)
		return ERR_NOMEM;
	c->u.names.p = batch_keep(m->out, file->data, file->len);
	c->u.names.n = file->len;
	return c->u.names.p != NULL ? 0 : ERR_NOMEM;
}

int
maker_header(struct maker *m, const struct index_header *h, uint64_t mask)
{
	struct change *c = batch_add(m->out, CHANGE_HEADER);

	if (c == NULL)
		return ERR_NOMEM;
	c->u.header.mask = mask;
	c->u.header.h = *h;
	return 0;
}

int
maker_owner(struct maker *m, const struct change_owner *o)
{
	struct change *c = batch_add(m->out, CHANGE_OWNER);

	if (c == NULL)
		return ERR_NOMEM;
	c->u.owner = *o;
	return 0;
}

/* All annotations of one message, copied. */
int
maker_annots(struct maker *m, uint32_t uid, const struct db_annot *list, size_t n)
{
	struct change *c = batch_add(m->out, CHANGE_ANNOTS);

	if (c == NULL)
		return ERR_NOMEM;
	c->u.annots.uid = uid;
	c->u.annots.n = 0;
	c->u.annots.list = batch_room(m->out, (n + 1) * sizeof(struct change_annot));
	if (c->u.annots.list == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < n; i++) {
		struct change_annot *a = &c->u.annots.list[i];
		a->entry = batch_keep(m->out, list[i].entry, strlen(list[i].entry));
		a->userid = batch_keep(m->out, list[i].userid, strlen(list[i].userid));
		a->value = batch_keep(m->out, list[i].value, list[i].value_len);
		a->value_len = list[i].value_len;
		a->modseq = list[i].modseq;
		a->flags = list[i].flags;
		if (a->entry == NULL || a->userid == NULL || a->value == NULL)
			return ERR_NOMEM;
	}
	c->u.annots.n = n;
	return 0;
}

/* All annotations of the mailbox, and that these are all. */
int
maker_all_annots(struct maker *m, const struct scan_annots *annots)
{
	int rc = maker_annots(m, 0, NULL, 0);

	for (size_t i = 0, n; rc == 0 && i < annots->n; i += n) {
		const struct db_annot *list =
			scan_annots_of(annots, annots->list[i].uid, &n);
		rc = maker_annots(m, list->uid, list, n);
	}
	return rc;
}

int
maker_begin(struct maker *m, const struct mbox_delta *d, struct spool *sp,
	struct batch *out, struct mbox_fault *fault)
{
	batch_init(out);
	*m = (struct maker){ .sp = sp,
		.dir = d->dir,
		.from_dir = d->from_dir,
		.limit = d->limit,
		.ref = d->ref,
		.ref_arg = d->ref_arg,
		.out = out,
		.fault = fault,
		.at = -1,
		.cache_fd = -1 };
	out->dir = batch_keep(out, d->dir, strlen(d->dir));
	if (d->from_dir != NULL)
		out->from_dir = batch_keep(out, d->from_dir, strlen(d->from_dir));
	if (out->dir == NULL || (d->from_dir != NULL && out->from_dir == NULL)) {
		batch_fini(out);
		return ERR_NOMEM;
	}
	return 0;
}

/* Nearly all messages have the owner and mode of the index, and nothing is said of them. */
static int
other_files(struct maker *m, const struct change_owner *usual)
{
	size_t n = m->out->n;

	for (size_t i = 0; i < n && m->out->n < BATCH_MAX_CHANGES; i++) {
		const struct change *c = &m->out->changes[i];
		if (c->kind != CHANGE_RECORD || c->u.record.file.uid == 0)
			continue;
		struct change_body file = c->u.record.file;
		if (file.owner == usual->uid && file.group == usual->gid &&
			file.mode == usual->message_mode)
			continue;
		struct change *more = batch_add(m->out, CHANGE_BODY);
		if (more == NULL)
			return ERR_NOMEM;
		more->u.body = file;
	}
	return 0;
}

int
maker_finish(struct maker *m, const struct mbox_state *state, int rc)
{
	if (m->cache_fd >= 0)
		close(m->cache_fd);
	if (m->at >= 0)
		close(m->at);
	if (rc == 0) {
		m->out->uniqueid =
			batch_keep(m->out, state->uniqueid, strlen(state->uniqueid));
		if (m->out->uniqueid == NULL)
			rc = ERR_NOMEM;
	}
	if (rc == 0)
		rc = other_files(m, &state->owner);
	if (rc != 0)
		batch_fini(m->out);
	return rc;
}
