/*
 * facts.c - what a node tells of itself.
 *
 * Other threads must not look at what the peer thread owns, so that copies it out: all of it a few
 * times a second, and positions, for which waiters look, whenever they change.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "sync/level.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *
peer_state(const struct node *n, const struct peer *p)
{
	if (p->session == NULL)
		return p->cursor.state == JOURNAL_PEER_BEHIND ? "behind" : "connecting";
	if (n->role == SYNC_STANDBY)
		return p->feeding ? (p->rebase ? "comparing" : "receiving") : "idle";
	return p->comparing ? "comparing" : "streaming";
}

/* Numbers that change with every batch; cheap. */
static void
publish_positions(struct node *n)
{
	struct sync_facts *f = &n->facts;

	f->position.seq = n->journal_last;
	n->greeted_all = true;
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		struct sync_peer_facts *pf = &f->peers[i];
		pf->connected = p->session != NULL;
		pf->sent = p->sent;
		pf->received = p->cursor.received;
		pf->flushed = p->cursor.flushed;
		pf->applied = p->visible;
		pf->lag_seqs =
			n->journal_last > p->visible ? n->journal_last - p->visible : 0;
		snprintf(pf->state, sizeof(pf->state), "%s", peer_state(n, p));
		if (!p->greeted)
			n->greeted_all = false;
	}
}

void
node_publish(struct node *n)
{
	pthread_mutex_lock(&n->lock);
	publish_positions(n);
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
}

static int
fact_aside(void *arg, const struct inbox_quarantine *q)
{
	struct sync_facts *f = arg;

	if (f->n_listed < sizeof(f->quarantined) / sizeof(f->quarantined[0])) {
		struct sync_quarantine_facts *qf = &f->quarantined[f->n_listed++];
		snprintf(qf->dir, sizeof(qf->dir), "%s", q->dir);
		snprintf(qf->check, sizeof(qf->check), "%s", q->check);
		snprintf(qf->text, sizeof(qf->text), "%s", q->text);
		qf->uid = q->uid;
		qf->since = q->since;
	}
	f->n_quarantined++;
	return 0;
}

static int
oldest_unapplied(void *arg, const struct journal_row *row)
{
	*(uint64_t *)arg = row->time;
	return 0;
}

static void
sent_facts(const struct session_stats *stats, struct sync_peer_facts *pf)
{
	_Static_assert(WIRE_TYPES <= (int)SYNC_SENT_KINDS, "room for every kind");

	pf->n_sent_kinds = 0;
	for (unsigned type = 0; type < WIRE_TYPES; type++) {
		const struct wire_kind *k = wire_kind(type);

		if (k == NULL || stats->sent[type].messages == 0)
			continue;
		pf->sent_kinds[pf->n_sent_kinds++] = (struct sync_sent_facts){
			.kind = k->name,
			.messages = stats->sent[type].messages,
			.bytes = stats->sent[type].bytes,
		};
	}
}

static void
peer_facts(struct node *n, struct peer *p, struct sync_peer_facts *pf)
{
	struct hub_peer_facts hf;
	uint64_t next, oldest = 0, spent;

	hub_facts(n->hub, p->i, &hf);
	snprintf(pf->name, sizeof(pf->name), "%s", p->conf->name);
	snprintf(pf->address, sizeof(pf->address), "%s", p->conf->address);
	snprintf(pf->error, sizeof(pf->error), "%s",
		p->error[0] ? p->error : hf.last_error);
	pf->wire_sent = hf.stats.wire_sent;
	pf->wire_got = hf.stats.wire_got;
	pf->raw_sent = hf.stats.raw_sent;
	pf->raw_got = hf.stats.raw_got;
	sent_facts(&hf.stats, pf);
	tally_facts(&hf.stats, pf);
	pf->lag_ms = 0;
	if (n->role == SYNC_ACTIVE && p->visible < n->journal_last &&
		journal_read(n->journal, p->visible + 1, 1, oldest_unapplied, &oldest,
			&next) == 0 &&
		oldest != 0 && clock_wall_ns() > oldest)
		pf->lag_ms = (clock_wall_ns() - oldest) / 1000000;
	pf->mailboxes_done = pf->mailboxes_total = pf->messages_done = pf->bytes_done =
		0;
	pf->messages_total = pf->bytes_per_s = pf->left_s = 0;
	if (!p->comparing)
		return;
	spent = clock_ms() - p->repair_began_ms + 1;
	pf->mailboxes_done = p->repaired;
	pf->mailboxes_total = p->to_repair;
	pf->messages_done = p->repaired_messages;
	pf->bytes_done = p->repaired_bytes;
	pf->bytes_per_s = p->repaired_bytes * 1000 / spent;
	if (p->repaired > 0)
		pf->left_s = (p->to_repair - p->repaired) * spent / p->repaired / 1000;
}

void
node_publish_all(struct node *n)
{
	struct journal_facts jf;
	struct inbox_facts inf;
	struct replay_facts rf;
	struct sync_facts f;

	pthread_mutex_lock(&n->lock);
	f = n->facts;
	pthread_mutex_unlock(&n->lock);
	journal_facts(n->journal, &jf);
	inbox_facts(n->inbox, &inf);
	replay_facts(n->replay, &rf);
	f.role = n->role;
	f.position.epoch = epoch_current(&n->epoch.line);
	f.position.run = jf.last.run;
	f.journal_first = jf.first;
	f.journal_bytes = jf.bytes;
	f.queued = outq_last(n->outq) - outq_settled_upto(n->outq);
	f.mailboxes = mboxes_count(n->mboxes);
	f.batches = n->batches_sent;
	f.bodies = n->bodies_sent;
	f.body_bytes = n->body_bytes_sent;
	f.applied_batches = rf.applied;
	f.replay_pending = inf.pending;
	f.held_run = inf.received.run;
	f.held_received = inf.received.seq;
	f.held_applied = inf.done.seq;
	snprintf(f.stalled, sizeof(f.stalled), "%s", rf.stalled);
	f.later_epoch = hello_stale(n, f.stale, sizeof(f.stale)) ? n->later_epoch : 0;
	f.n_peers = n->n_peers;
	f.n_quarantined = f.n_listed = 0;
	inbox_quarantine_walk(n->inbox, fact_aside, &f);
	f.n_peer_listed = 0;
	for (unsigned i = 0; i < n->n_peers; i++) {
		peer_facts(n, &n->peers[i], &f.peers[i]);
		asides_facts(&n->peers[i], &f);
	}
	pthread_mutex_lock(&n->lock);
	n->facts = f;
	publish_positions(n);
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
}

#define NAME_ROW(id, name) name,
const char *const sync_change_names[SYNC_CHANGES] = { SYNC_CHANGE_TABLE(NAME_ROW) };
#undef NAME_ROW

void
sync_facts(struct sync *s, struct sync_facts *out)
{
	pthread_mutex_lock(&s->node.lock);
	*out = s->node.facts;
	pthread_mutex_unlock(&s->node.lock);
	level_facts(s->node.level, &out->level);
}

bool
sync_greeted(struct sync *s)
{
	pthread_mutex_lock(&s->node.lock);
	bool all = s->node.n_peers == 0 || s->node.greeted_all;
	pthread_mutex_unlock(&s->node.lock);
	return all;
}

/* ---- mailboxes, one by one ---- */

int
sync_mailbox_by_id(struct sync *s, const char *uniqueid, char *dir_out, size_t size)
{
	struct mboxent *e = mboxes_by_id(s->node.mboxes, uniqueid);

	if (e == NULL || strlen(e->dir) >= size)
		return ERR_NOTFOUND;
	strcpy(dir_out, e->dir);
	return 0;
}

int
sync_mailbox_state(struct sync *s, const char *dir, struct mbox_state *out)
{
	struct mboxent *e = mboxes_find(s->node.mboxes, dir);
	int rc = ERR_NOTFOUND;

	if (e == NULL || e->state == NULL)
		return rc;
	pthread_mutex_lock(&e->lock);
	if (e->known) {
		*out = *e->state;
		rc = 0;
	}
	pthread_mutex_unlock(&e->lock);
	return rc;
}

void
sync_each_mailbox(struct sync *s,
	void (*fn)(void *arg, const char *dir, const char *uniqueid), void *arg)
{
	size_t n;
	struct mboxent **list = mboxes_list(s->node.mboxes, &n);
	struct mbox_state state;

	for (size_t i = 0; list != NULL && i < n; i++)
		if (sync_mailbox_state(s, list[i]->dir, &state) == 0)
			fn(arg, list[i]->dir, state.uniqueid);
	free(list);
}
