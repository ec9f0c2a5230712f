/*
 * send.c - the out queue into the journal, the journal to the peers.
 *
 * What is sent for a row: first the bodies that it brings (body.c), then the batch. A body that is
 * not what its record says sets that mailbox aside: an empty batch goes in the row's place, so the
 * numbers go on, and nothing of the mailbox reaches the peer. A session takes bulk up to its
 * high-water mark; `drained` goes on where it stopped.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/scan.h"
#include "meta/spool.h"
#include "sync/level.h"
#include "sync/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	AHEAD = 64, /* bodies */
	GROUP_MS = 2, /* between two transactions of the journal */
	LEAVING_MS = 3000
};

/* ---- the journal ---- */

static void
note_aside(struct node *n, struct outq_item *it)
{
	struct inbox_quarantine q = { it->key, it->fault.uid, it->fault.check,
		it->fault.text, 0, { 0, 0, 0 } };
	int rc = inbox_quarantine_put(n->inbox, &q);

	node_count_asides(n);
	if (rc != 0)
		log_err("a quarantine cannot be stored: %s", err_text(rc));
}

static int
journal_one(struct node *n, struct outq_item *it)
{
	struct store_mbox m = { it->key, it->uniqueid, 0, it->state.data,
		it->state.len };
	uint64_t seq = 0;
	int rc = 0;

	if (it->bytes.len > 0) {
		struct journal_entry e = { it->key, it->bytes.data, it->bytes.len,
			it->uniqueid, NULL, 0 };
		if ((rc = journal_append(n->journal, &e, &seq)) != 0)
			return rc;
		n->journal_last = seq;
	}
	/* A rename drops states before its own row comes: the tombstones are of that row, or the
	 * next trim would take them for old. */
	m.seq = seq;
	if (it->what == OUTQ_STATE_PUT)
		rc = store_mbox_put(n->store, &m);
	else if (it->what == OUTQ_STATE_DROP &&
		 (rc = store_mbox_drop(n->store, it->key,
			  seq != 0 ? seq : n->journal_last + 1)) == ERR_NOTFOUND)
		rc = 0;
	return rc;
}

/* What follows from a row that is in the journal now. */
static void
journaled(struct node *n, struct outq_item *it)
{
	if (it->aside)
		note_aside(n, it);
	else if (it->bytes.len > 0 && inbox_quarantined(n->inbox, it->key) &&
		 inbox_quarantine_release(n->inbox, it->key, false) == 0) {
		node_count_asides(n);
		compare_one(n, it->key);
	}
	/* A folder that is set aside and moved is so under its new name. */
	if (it->what == OUTQ_STATE_DROP && it->bytes.len == 0 &&
		inbox_quarantine_release(n->inbox, it->key, false) == 0)
		node_count_asides(n);
	if (it->noted != 0) {
		settled_add(n->settled, it->note, it->noted);
		it->note = NULL;
	}
	if (it->done != NULL)
		it->done(it->done_arg);
}

/* One transaction for all that is queued. If the state folder's disk is full, mail goes on: the
 * queue waits in memory and is tried again; what is lost with this process is derived. */
void
send_journal(struct node *n)
{
	struct outq_item *all = outq_take(n->outq), **end = &n->stuck;
	uint64_t settled = outq_settled_upto(n->outq);
	uint64_t last_before = n->journal_last;
	int rc;

	while (*end != NULL)
		end = &(*end)->next;
	*end = all;
	if (n->stuck == NULL)
		return;
	rc = journal_begin(n->journal);
	for (struct outq_item *it = n->stuck; rc == 0 && it != NULL; it = it->next)
		rc = journal_one(n, it);
	if (rc == 0)
		rc = journal_commit(n->journal);
	else
		journal_rollback(n->journal);
	if (rc != 0) {
		n->journal_last = last_before;
		log_err("the journal cannot be written, changes wait in memory: %s",
			err_text(rc));
		return;
	}
	n->journaled_ms = clock_ms();
	FAULT("send.journaled");
	while (n->stuck != NULL) {
		struct outq_item *it = n->stuck;
		n->stuck = it->next;
		journaled(n, it);
		outq_item_free(it);
		settled++;
	}
	outq_settled(n->outq, settled);
	level_journaled(n->level, settled, n->journal_last);
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].sending)
			send_pump(&n->peers[i]);
	node_publish(n);
}

/* Each transaction costs both sides some work that its rows share, and the standby a sync. A row that
 * comes alone never waits. */
void
send_soon(struct node *n)
{
	uint64_t since = clock_ms() - n->journaled_ms;

	if (since < GROUP_MS && level_wanted(n->level) == 0 && !n->stopping)
		loop_timer_set(n->loop, &n->group, GROUP_MS - since);
	else
		send_journal(n);
}

/* ---- rows ---- */

static int
hold_row(void *arg, const struct journal_row *row)
{
	struct peer *p = arg;

	buf_clear(&p->row);
	buf_put(&p->row, row->bytes, row->n);
	if (buf_ok(&p->row) != 0)
		return ERR_NOMEM;
	p->row_pos = row->pos;
	p->row_held = true;
	return 0;
}

static void
drop_row(struct peer *p)
{
	if (p->row_held)
		batch_fini(&p->batch);
	p->row_held = false;
	p->body_wait_ms = 0;
	if (p->row_at_on)
		close(p->row_at);
	p->row_at_on = false;
	body_close(p);
	digest_forget(p);
}

/* What a row says instead that is not sent. */
static void
blank_row(struct peer *p)
{
	struct batch empty;

	drop_row(p);
	batch_init(&empty);
	buf_clear(&p->row);
	if (batch_encode(&empty, &p->row) == 0 &&
		batch_decode(p->row.data, p->row.len, &p->batch) == 0)
		p->row_held = true;
	p->body_next = p->told = 0;
	batch_fini(&empty);
}

/* The same of a mailbox's row. */
static void
withhold_row(struct peer *p)
{
	withheld_upto(p->node, p->row_pos.seq, false);
	blank_row(p);
}

static bool
next_row(struct peer *p)
{
	struct node *n = p->node;
	struct mboxent *e;
	int rc;

	if (p->next > n->journal_last)
		return false;
	rc = journal_read(n->journal, p->next, 1, hold_row, p, &p->row_next);
	if (rc == ERR_GONE) {
		log_warn("the journal no longer has what a peer needs, comparing: "
			 "peer=%s",
			p->conf->name);
		session_end(p->session, WIRE_BYE_INTERNAL, "behind the journal");
		return false;
	}
	if (rc != 0 || !p->row_held) {
		if (rc != 0)
			log_err("the journal cannot be read: %s", err_text(rc));
		p->row_held = false;
		return false;
	}
	p->body_next = p->told = 0;
	if ((rc = batch_decode(p->row.data, p->row.len, &p->batch)) != 0) {
		p->row_held = false;
		log_err("a row of the journal is damaged: seq=%" PRIu64 ": %s",
			p->row_pos.seq, err_text(rc));
		withhold_row(p);
	} else if (p->batch.dir[0] != '\0' &&
		   (e = mboxes_find(n->mboxes, p->batch.dir)) != NULL && e->aside) {
		withhold_row(p);
	}
	return p->row_held;
}

static void
bad_body(struct peer *p, const char *dir, uint32_t uid, const char *name, int code)
{
	struct node *n = p->node;
	struct mboxent *e = mboxes_find(n->mboxes, dir);
	struct mbox_fault fault = { .uid = uid };

	snprintf(fault.check, sizeof(fault.check), "guid");
	snprintf(fault.text, sizeof(fault.text),
		"%.40s is missing or not what its record says (%s); restore the file "
		"or run "
		"reconstruct -G on the mailbox, then it goes on by itself",
		name, err_text(code));
	if (e != NULL) {
		pthread_mutex_lock(&e->lock);
		node_set_aside(n, e, &fault, code);
		pthread_mutex_unlock(&e->lock);
	}
	withhold_row(p);
}

/* Is the message of this record gone from its mailbox by now, as it should be? */
static bool
is_expunged(struct node *n, const char *dir, uint32_t uid)
{
	struct buf index = BUF_INIT;
	struct index_record r;
	struct index_view v;
	uint32_t i;
	bool gone = false;
	int rc =
		spool_read(n->spool, dir, "cyrus.index", BUF_MAX_DEFAULT, &index, NULL);

	if (rc == ERR_NOTFOUND) {
		gone = true; /* with its mailbox: the removal is behind this row */
	} else if (rc == 0 && index_view_open(&v, index.data, index.len) == 0) {
		rc = index_view_find(&v, uid, &i);
		gone = rc == ERR_NOTFOUND ||
		       (rc == 0 && index_view_record(&v, i, &r) == 0 &&
			       (r.flags & INDEX_FLAG_UNLINKED) != 0);
	}
	buf_fini(&index);
	return gone;
}

/* Its folder is gone from here, and it is known nevertheless: somebody is about to say that he
 * moved or removed it. He is given a while. */
static bool
is_leaving(struct node *n, const char *dir)
{
	struct mboxent *e = mboxes_find(n->mboxes, dir);
	struct stat st;

	return e != NULL && e->known && !e->aside &&
	       spool_stat(n->spool, dir, NULL, &st) == ERR_NOTFOUND;
}

/* A body that went with its message: the mailbox is compared, and the row goes empty. Otherwise
 * the mailbox is unsound. False: that cannot be said yet. */
static bool
missing_body(struct peer *p, uint32_t uid, const char *name, int code)
{
	struct node *n = p->node;
	char dir[BATCH_MAX_PATH];

	if (!moves_now(n->moves, p->row_pos.seq, p->batch.dir, dir, sizeof(dir)))
		snprintf(dir, sizeof(dir), "%s", p->batch.dir);
	bool leaving = is_leaving(n, dir);
	if (leaving && p->body_wait_ms == 0)
		p->body_wait_ms = clock_ms();
	if (leaving && clock_ms() - p->body_wait_ms < LEAVING_MS)
		return false;
	if (leaving || !is_expunged(n, dir, uid)) {
		bad_body(p, dir, uid, name, code);
	} else {
		log_info("a body is gone with its message, the mailbox is compared: "
			 "dir=%s "
			 "uid=%" PRIu32,
			dir, uid);
		withhold_row(p);
		compare_one(n, dir);
	}
	return true;
}

static bool
brings_body(const struct batch *b, const struct change *c)
{
	return c->kind == CHANGE_RECORD && c->u.record.append &&
	       c->u.record.ref_dir == NULL && b->from_dir == NULL &&
	       (c->u.record.r.flags & (INDEX_FLAG_UNLINKED | INDEX_FLAG_ARCHIVED)) == 0;
}

/* Where bodies come from the disk, the kernel is told of those that follow, or each would be waited for
 * alone. Nothing is told again until one is slow all the same. */
static void
tell_ahead(struct peer *p)
{
	char name[SCAN_BODY_NAME];
	size_t i = p->told > p->body_next ? p->told : p->body_next;

	if (!p->slow)
		return;
	for (; i < p->batch.n && i < p->body_next + AHEAD; i++)
		if (brings_body(&p->batch, &p->batch.changes[i]))
			body_ahead(p, scan_body_name(p->batch.changes[i].u.record.r.uid,
					      name));
	p->told = i;
}

/* Opens the next body of the row. False: there is none left, or body_wait_ms says since when it is
 * waited for, or its digest is not known yet. */
static bool
next_body(struct peer *p)
{
	char name[SCAN_BODY_NAME];
	int rc;

	while (p->body_next < p->batch.n) {
		const struct change *c = &p->batch.changes[p->body_next++];
		if (brings_body(&p->batch, c)) {
			scan_body_name(c->u.record.r.uid, name);
			rc = body_of_row(
				p, name, c->u.record.r.guid, c->u.record.r.size);
			if (rc == 0) {
				p->body_wait_ms = 0;
				tell_ahead(p);
				return true;
			}
			if (rc == ERR_BUSY ||
				!missing_body(p, c->u.record.r.uid, name, rc)) {
				p->body_next--;
				return false;
			}
		} else if (c->kind == CHANGE_FILE) {
			rc = body_find(p, p->row_pos.seq, c->u.path.path, NULL,
				c->u.path.sha1, c->u.path.size);
			if (rc == 0)
				return true;
			if (rc == ERR_BUSY) {
				p->body_next--;
				return false;
			}
			/* It has changed since: a later row states what it is then. */
			blank_row(p);
		}
	}
	return false;
}

/* ---- the pump ---- */

/* A row of another run than the last one is announced. */
static bool
tell_run(struct peer *p)
{
	struct wire_start m = { p->row_pos.epoch, p->row_pos.run, p->row_pos.seq,
		WIRE_MODE_STREAM };

	if (p->row_pos.run == p->run)
		return true;
	if (session_send(p->session, WIRE_START, &m) != 0)
		return false;
	p->epoch = p->row_pos.epoch;
	p->run = p->row_pos.run;
	return true;
}

static bool
row_send(struct peer *p)
{
	struct wire_batch m = { p->row_pos.seq, { p->row.data, p->row.len } };

	if (!tell_run(p) || !withheld_before_row(p) ||
		session_send(p->session, WIRE_BATCH, &m) != 0)
		return false;
	tally_row(p);
	p->node->batches_sent++;
	p->sent = p->row_pos.seq;
	p->next = p->row_next;
	drop_row(p);
	return true;
}

void
send_pump(struct peer *p)
{
	/* Until a message is refused: only then `drained` calls again. */
	while (p->sending && p->session != NULL) {
		if (p->body.on) {
			if (!body_send(p))
				return;
			continue;
		}
		if (!p->row_held) {
			if (body_wanted(p))
				continue;
			if (p->digest != NULL || !next_row(p))
				break;
		}
		if (next_body(p))
			continue;
		if (p->digest != NULL || p->body_wait_ms != 0 || !row_send(p))
			return;
	}
	if (p->sending && p->session != NULL)
		compare_pump(p);
}

/* ---- beginning and end ---- */

void
send_start(struct peer *p)
{
	struct node *n = p->node;
	const struct wire_hello *h = session_hello(p->session);
	struct pos at = { h->held_epoch, h->held_run, h->held_received };
	struct journal_facts jf;
	const struct pos *base =
		n->epoch.line.n > 0 ? &n->epoch.line.e[n->epoch.line.n - 1].base : NULL;
	uint64_t from = 0;
	enum journal_verdict v = journal_judge(n->journal, at, base, &from);
	struct wire_start m;

	if (journal_peer_get(n->journal, p->conf->name, &p->cursor) != 0) {
		memset(&p->cursor, 0, sizeof(p->cursor));
		snprintf(p->cursor.name, sizeof(p->cursor.name), "%s", p->conf->name);
	}
	/* Cut off in the middle of a comparison, or its journal was trimmed. */
	if (v == JOURNAL_STREAM && (p->cursor.state != JOURNAL_PEER_STREAMING ||
					   (h->features & WIRE_FEATURE_LOST) != 0))
		v = JOURNAL_COMPARE_BEHIND;
	compare_fork(p, v == JOURNAL_COMPARE_BEYOND);
	journal_facts(n->journal, &jf);
	p->sending = true;
	p->epoch = jf.last.epoch;
	p->run = jf.last.run;
	p->compared_at = UINT64_MAX;
	p->mending = false;
	p->cursor.epoch = jf.last.epoch;
	p->cursor.run = jf.last.run;
	p->cursor.state =
		v == JOURNAL_STREAM ? JOURNAL_PEER_STREAMING : JOURNAL_PEER_COMPARING;
	if (v == JOURNAL_STREAM) {
		p->next = from;
		p->cursor.received = p->cursor.flushed = h->held_received;
		p->cursor.applied = h->held_applied;
	} else {
		p->next = n->journal_last + 1;
		p->cursor.received = p->cursor.flushed = p->cursor.applied =
			n->journal_last;
	}
	p->sent = p->next - 1;
	p->visible = p->cursor.applied;
	journal_peer_set(n->journal, &p->cursor);
	n->confirmed = journal_confirmed(n->journal);
	log_info("peer is here: peer=%s from=%" PRIu64 " because: %s", p->conf->name,
		p->next, journal_verdict_text(v));
	m = (struct wire_start){ jf.last.epoch, jf.last.run, p->next,
		v == JOURNAL_STREAM ? WIRE_MODE_STREAM : WIRE_MODE_COMPARE };
	if (session_send(p->session, WIRE_START, &m) != 0 || !withheld_begin(p))
		return;
	if (v != JOURNAL_STREAM)
		compare_start(p);
	confirm_start(p, v == JOURNAL_STREAM);
	send_pump(p);
}

void
send_stop(struct peer *p)
{
	p->sending = false;
	confirm_stop(p);
	drop_row(p);
	body_forget_wanted(p);
	compare_stop(p);
}

int
send_on_ack(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_ack *m = msg;

	if (m->received > n->journal_last || m->flushed > m->received ||
		m->applied > m->received)
		return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
			"ACK beyond what was sent: received=%" PRIu64 " last=%" PRIu64,
			m->received, (uint64_t)n->journal_last);
	if (m->received > p->cursor.received)
		p->cursor.received = m->received;
	if (m->flushed > p->cursor.flushed)
		p->cursor.flushed = p->cursor.applied = m->flushed;
	if (m->applied > p->visible)
		p->visible = m->applied;
	p->cursor_dirty = true;
	confirm_from_ack(p, m);
	node_publish(n);
	return 0;
}

static void
on_behind(void *arg, const struct journal_peer *jp)
{
	struct node *n = arg;

	for (unsigned i = 0; i < n->n_peers; i++)
		if (strcmp(n->peers[i].conf->name, jp->name) == 0)
			n->peers[i].cursor = *jp;
}

/* Cursors and trimming, a few times a second. */
void
send_tick(struct node *n)
{
	bool more = false;

	if (n->stuck != NULL)
		send_journal(n);
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		if (p->cursor_dirty && journal_peer_set(n->journal, &p->cursor) == 0)
			p->cursor_dirty = false;
		if (p->body_wait_ms != 0 || p->wanted != NULL)
			send_pump(p);
	}
	settled_tick(n->settled);
	n->confirmed = journal_confirmed(n->journal);
	uint64_t mark = kept_mark(n->kept); /* NULL on a standby */
	if (outq_last(n->outq) == outq_settled_upto(n->outq)) {
		kept_clamp(n->kept, mark, n->journal_last);
		for (unsigned i = 0; i < n->n_peers; i++)
			withheld_end(&n->peers[i]);
	}
	kept_release(n->kept, n->confirmed);
	moves_release(n->moves, n->confirmed);
	journal_trim(n->journal, on_behind, n, &more);
}
