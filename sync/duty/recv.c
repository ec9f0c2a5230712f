/*
 * recv.c - what the active side sends: bodies to staging, batches to the inbox, then to replay.
 *
 * All batches of a turn of the loop enter the inbox in one synced transaction; only then are
 * they received, and replayed. ACK says three things: received (in the inbox, synced), applied
 * (replayed and verified, visible), and flushed (replayed, and the spool synced since: what the
 * sender may forget).
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BULK_ROW = 128 << 10, BULK_MAX = 16 << 20, BULK_MS = 100, ACK_MS = 5 };

/* A standby is on the line of the side that feeds it. */
static int
follow(struct node *n, const struct wire_hello *h)
{
	struct epoch_line line;
	int rc;

	if (h->line.n == 0)
		return 0;
	if ((rc = epoch_decode(h->line.p, h->line.n, &line)) != 0)
		return ERR_PROTO;
	if (epoch_current(&line) == epoch_current(&n->epoch.line))
		return 0;
	return epoch_follow(n->store, &n->epoch, &line);
}

int
recv_on_start(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_start *m = msg;

	if (n->role == SYNC_ACTIVE)
		return session_reject(s, ERR_PROTO, WIRE_BYE_ROLE,
			"START at the active side %s", n->conf.name);
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && &n->peers[i] != p)
			return session_reject(s, ERR_PEER, WIRE_BYE_ROLE,
				"%s is fed by %s already", n->conf.name,
				n->peers[i].conf->name);
	if (m->mode >= WIRE_MODES)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_PROTO, "unknown mode %u", m->mode);
	bool first = !p->feeding;
	p->feeding = true;
	p->fed =
		(struct pos){ m->epoch, m->run, m->from_seq > 0 ? m->from_seq - 1 : 0 };
	p->began = (struct pos){ m->epoch, m->run, m->from_seq };
	if (m->mode == WIRE_MODE_COMPARE) {
		n->unsure = true;
		p->round++;
		p->extras_due = false;
		if (first) {
			p->rebase = true;
			p->rebase_to = p->fed;
		}
		ask_forget_owed(n);
		adopt_compared(n);
		log_info("comparing all mailboxes with the active side: peer=%s",
			p->conf->name);
	}
	if (first) {
		int rc = follow(n, session_hello(s));
		if (rc != 0)
			return rc;
		if ((session_features(s) & WIRE_FEATURE_WITHHELD) == 0)
			n->withheld = false;
		replay_ask_again(n->replay);
		if (m->mode != WIRE_MODE_COMPARE) {
			ask_resume(n);
			n->unsure = false;
		}
	}
	return 0;
}

/* Room for one more batch of this turn. */
static bool
room(struct node *n)
{
	if (n->n_arrived < n->cap_arrived)
		return true;
	size_t cap = n->cap_arrived ? n->cap_arrived * 2 : 64;
	struct inbox_item *items = realloc(n->arrived, cap * sizeof(*items));
	if (items != NULL)
		n->arrived = items;
	struct buf *bytes = realloc(n->arrived_bytes, cap * sizeof(*bytes));
	if (bytes != NULL)
		n->arrived_bytes = bytes;
	if (items == NULL || bytes == NULL)
		return false;
	memset(&n->arrived_bytes[n->cap_arrived], 0,
		(cap - n->cap_arrived) * sizeof(*bytes));
	n->cap_arrived = cap;
	return true;
}

int
recv_on_batch(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_batch *m = msg;
	struct batch b;
	int rc;

	if (!p->feeding || m->seq <= p->fed.seq)
		return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
			"BATCH out of order: seq=%" PRIu64 " after %" PRIu64, m->seq,
			p->fed.seq);
	if ((rc = batch_decode(m->bytes.p, m->bytes.n, &b)) != 0)
		return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
			"BATCH %" PRIu64 " does not decode: %s", m->seq, err_text(rc));
	if (!room(n)) {
		batch_fini(&b);
		return ERR_NOMEM;
	}
	struct buf *copy = &n->arrived_bytes[n->n_arrived];
	struct inbox_item *it = &n->arrived[n->n_arrived];
	buf_clear(copy);
	buf_put(copy, b.dir, strlen(b.dir) + 1);
	buf_put(copy, m->bytes.p, m->bytes.n);
	size_t dir_n = strlen(b.dir) + 1;
	it->pos = (struct pos){ p->fed.epoch, p->fed.run, m->seq };
	whole_row(p, &b, it->pos);
	batch_fini(&b);
	if (buf_ok(copy) != 0)
		return ERR_NOMEM;
	it->n = m->bytes.n;
	it->dir = (const char *)copy->data;
	it->bytes = copy->data + dir_n;
	if (n->n_arrived++ == 0)
		n->arrived_ms = clock_ms();
	n->arrived_size += it->n;
	n->arrived_safe = false;
	flush_row(n, it);
	p->fed.seq = m->seq;
	return 0;
}

/* Unless now, one that does not say that all is applied waits for a moment: it will soon say more. */
static void
ack(struct node *n, struct peer *p, const struct inbox_facts *f, bool now)
{
	struct wire_ack a;

	/* Positions of an older run say nothing about this journal. */
	bool same = f->received.epoch == p->fed.epoch && f->received.run == p->fed.run;
	if (!same)
		return;
	a.received = f->received.seq;
	a.applied = f->done.run == p->fed.run ? f->done.seq : 0;
	a.flushed = f->applied.run == p->fed.run ? f->applied.seq : 0;
	/* A row that was skipped for a repair is not to be seen yet. */
	if (n->open_repairs > 0 && a.applied >= n->open_from)
		a.applied = n->open_from - 1;
	if (memcmp(&a, &p->acked, sizeof(a)) == 0)
		return;
	if (!now && a.applied < p->fed.seq) {
		if (!n->ack.on)
			loop_timer_set(n->loop, &n->ack, ACK_MS);
		return;
	}
	if (session_send(p->session, WIRE_ACK, &a) == 0)
		p->acked = a;
}

void
recv_ack(void *node)
{
	struct node *n = node;
	struct inbox_facts f;

	inbox_facts(n->inbox, &f);
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && n->peers[i].session != NULL)
			ack(n, &n->peers[i], &f, true);
}

/* Large rows come in rows: a comparison. One sync for some of them costs nobody anything, while there
 * are others to be replayed. */
static bool
may_wait(struct node *n)
{
	return replay_busy(n->replay) && n->n_arrived < 64 &&
	       n->arrived_size < BULK_MAX &&
	       n->arrived_size / n->n_arrived >= BULK_ROW &&
	       clock_ms() - n->arrived_ms < BULK_MS;
}

static void
store_arrived(struct node *n)
{
	bool safe = flush_arrived(n);

	ask_save(n);
	int rc = safe ? inbox_put_relaxed(n->inbox, n->arrived, n->n_arrived)
		      : inbox_put(n->inbox, n->arrived, n->n_arrived, NULL);
	/* What was confirmed is kept, and tried again. */
	if (rc == 0 || !safe) {
		n->n_arrived = n->n_logged = n->arrived_size = 0;
		n->arrived_safe = false;
	}
	if (rc == 0) {
		replay_more(n->replay);
		return;
	}
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && n->peers[i].session != NULL)
			session_end(n->peers[i].session, WIRE_BYE_INTERNAL,
				"%s cannot store what it receives: %s", n->conf.name,
				err_text(rc));
}

/* Once all that is older is replayed, a comparison begins the inbox anew where its START said. Not
 * where it is by now: what has arrived since is still to be stored. */
static void
rebase(struct peer *p)
{
	struct node *n = p->node;
	struct inbox_facts f;

	if (!p->rebase || !replay_idle(n->replay))
		return;
	inbox_facts(n->inbox, &f);
	/* Batches of this run may have taken it there themselves. */
	if (f.received.run == p->fed.run && f.received.epoch == p->fed.epoch) {
		p->rebase = false;
	} else if (flush_forget(n, &f) && inbox_rebase(n->inbox, p->rebase_to) == 0) {
		replay_rebased(n->replay);
		p->rebase = false;
	}
}

/* What arrived counts below what is still being replayed, as it may if the active side's clock went
 * back and its state with it: it would be taken for known. It waits for the rebase. */
static bool
is_below(struct node *n)
{
	struct inbox_facts f;

	inbox_facts(n->inbox, &f);
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].rebase)
			return pos_cmp(n->arrived[0].pos, f.received) <= 0;
	return false;
}

void
recv_flush(struct node *n)
{
	struct inbox_facts f;
	bool early = false;

	if (n->role == SYNC_ACTIVE)
		return;
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && n->peers[i].session != NULL)
			early |= confirm_early(&n->peers[i]);
	if (early) {
		/* It leaves before the disk is waited for; then this comes again. */
		loop_hook_again(n->loop);
		return;
	}
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && n->peers[i].session != NULL)
			rebase(&n->peers[i]);
	if (n->n_arrived > 0 && (n->arrived_safe || !may_wait(n)) && !is_below(n)) {
		if (!n->arrived_safe && flush_arrived(n))
			for (unsigned i = 0; i < n->n_peers; i++)
				if (n->peers[i].feeding && n->peers[i].session != NULL)
					early |= confirm_flushed(&n->peers[i]);
		if (early) {
			loop_hook_again(n->loop);
			return;
		}
		FAULT("recv.confirmed");
		store_arrived(n);
	}
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		if (!p->feeding || p->session == NULL)
			continue;
		ask_extras(n, p);
		inbox_facts(n->inbox, &f);
		ack(n, p, &f, false);
		confirm_late(p, &f);
		flush_trim(n, &f);
	}
}

static void
stage_drop(struct node *n)
{
	if (n->stage != NULL)
		spool_stage_abort(n->stage);
	n->stage = NULL;
	free(n->stage_small);
	n->stage_small = NULL;
	n->stage_total = n->stage_at = 0;
}

/* A small one is all in memory. */
static int
small_end(struct node *n)
{
	uint8_t *bytes = n->stage_small, found[SHA1_LEN];

	n->stage_small = NULL;
	hash_sha1(bytes, n->stage_total, found);
	if (memcmp(found, n->stage_guid, SHA1_LEN) != 0) {
		free(bytes);
		return ERR_BODY;
	}
	flush_body(n, n->stage_guid, bytes, n->stage_total);
	return held_put(n->held, n->stage_guid, bytes, n->stage_total);
}

/* The last part is here: whole and verified, or not at all. */
static int
stage_end(struct node *n, struct session *s)
{
	int rc = 0;

	if (n->stage_small != NULL) {
		rc = small_end(n);
	} else if (n->stage != NULL) {
		rc = spool_stage_done(n->stage, false);
		n->stage = NULL;
		if (rc == 0)
			flush_staged(n, n->stage_guid);
	} else {
		flush_staged(n, n->stage_guid); /* it was there already */
	}
	n->stage_at = n->stage_total = 0;
	if (rc == ERR_BODY)
		return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
			"a body is not what its GUID says");
	if (rc != 0)
		log_err("a body cannot be staged, it is asked for again: %s",
			err_text(rc));
	replay_body(n->replay, n->stage_guid, true);
	return 0;
}

/* The first part: where the body goes until it is whole. Without room it goes nowhere, and replay
 * asks for it again when it may. */
static void
stage_begin(struct node *n, const struct wire_body *m)
{
	int rc = 0;

	stage_drop(n);
	memcpy(n->stage_guid, m->guid, SHA1_LEN);
	n->stage_total = m->total;
	if (spool_staged(n->spool, m->guid))
		return;
	if (m->total <= HELD_MAX_BODY)
		rc = (n->stage_small = malloc(m->total + 1)) != NULL ? 0 : ERR_NOMEM;
	else
		rc = spool_stage_open(n->spool, m->guid, m->total, &n->stage);
	if (rc != 0) {
		n->unsafe = true;
		log_err("a body cannot be staged: %s", err_text(rc));
	}
}

int
recv_on_body(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	const struct wire_body *m = msg;
	int rc = 0;

	if (n->role == SYNC_ACTIVE)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_PROTO, "BODY at the active side");
	if (m->offset == 0) {
		stage_begin(n, m);
	} else if (memcmp(m->guid, n->stage_guid, SHA1_LEN) != 0 ||
		   m->offset != n->stage_at || m->total != n->stage_total) {
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_PROTO, "BODY out of order");
	}
	if (m->data.n > n->stage_total - m->offset)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_PROTO, "BODY longer than it says");
	n->stage_at = m->offset + m->data.n;
	if (n->stage_small != NULL && m->data.n > 0)
		memcpy(n->stage_small + m->offset, m->data.p, m->data.n);
	if (n->stage != NULL &&
		(rc = spool_stage_write(n->stage, m->data.p, m->data.n)) != 0) {
		log_err("a body cannot be staged: %s", err_text(rc));
		spool_stage_abort(n->stage);
		n->stage = NULL;
		n->unsafe = true;
	}
	return n->stage_at == n->stage_total ? stage_end(n, s) : 0;
}

/* A standby: rows are stored at the end of the turn, so that many are enough for one. Of bodies only
 * while a worker is busy: it waits for nothing that would have to be read, and when it is done the
 * loop turns. When none is, what replay waits for may be on the line, so reading goes on
 * and the oldest bodies go to staging. */
bool
recv_no_room(void *node, struct session *s)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);

	if (n->role == SYNC_ACTIVE)
		return compare_no_room(p);
	if (n->n_arrived > 0 && n->arrived_size >= BULK_MAX && !is_below(n))
		return true;
	return p->feeding && held_full(n->held) && replay_busy(n->replay);
}

int
recv_on_gone(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	const struct wire_gone *m = msg;

	(void)s;
	replay_body(n->replay, m->guid, false);
	return 0;
}

void
recv_need(struct node *n, const struct mbox_need *need, const char *dir)
{
	struct wire_need m = { .size = need->size,
		.uid = need->uid,
		.dir = need->uid != 0 ? dir : need->path };

	memcpy(m.guid, need->guid, SHA1_LEN);
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && n->peers[i].session != NULL)
			session_send(n->peers[i].session, WIRE_NEED, &m);
}

void
recv_stop(struct peer *p)
{
	struct node *n = p->node;

	if (!p->feeding)
		return;
	if (n->n_arrived > 0)
		store_arrived(n); /* what arrived whole is kept */
	flush_end(n);
	p->feeding = false;
	p->rebase = false;
	p->extras_due = false;
	p->asides_told = false;
	memset(&p->acked, 0, sizeof(p->acked));
	p->want = 0;
	memset(&p->confirmed, 0, sizeof(p->confirmed));
	stage_drop(n);
	for (size_t i = n->asks_at; i < n->n_asks; i++)
		n->asks[i]->asking = false;
	n->n_asks = n->asks_at = 0;
	n->diff_due = false;
	recv_flush(n);
}
