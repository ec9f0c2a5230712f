/*
 * The wiring of layer 2, the peer thread, and what other threads may ask it.
 *
 * Open runs on the caller's thread: store, table, own gap. Start hands store and loop to the peer
 * thread. Facts for status are copied out by the peer thread a few times a second, and those that
 * waiters look at (positions) whenever they change.
 */
#include "sync/sync.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/arrivals.h"
#include "sync/level.h"
#include "sync/link.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TICK_MS = 50, FACTS_MS = 100, BYE_MS = 1000, SLICE_MS = 200 };

void
node_note_error(struct peer *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->error, sizeof(p->error), fmt, ap);
	va_end(ap);
}

void
node_count_asides(struct node *n)
{
	n->asides = inbox_quarantine_count(n->inbox);
	for (unsigned i = 0; i < n->n_peers; i++)
		n->peers[i].asides_told = false;
}

/* ---- facts ---- */

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

static void
publish_all(struct node *n)
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
	f.later_epoch =
		hello_outdated(n, f.outdated, sizeof(f.outdated)) ? n->later_epoch : 0;
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

void
sync_facts(struct sync *s, struct sync_facts *out)
{
	pthread_mutex_lock(&s->node.lock);
	*out = s->node.facts;
	pthread_mutex_unlock(&s->node.lock);
	level_facts(s->node.level, &out->level);
}

/* ---- the peer thread ---- */

static void
on_wake(void *arg)
{
	send_soon(arg);
}

static void
on_group(void *arg)
{
	send_journal(arg);
}

/* The end of every turn. */
static void
on_turn(void *arg)
{
	recv_flush(arg);
	ask_pump(arg);
}

static void
on_tick(void *arg)
{
	struct node *n = arg;
	static uint64_t next_facts; /* the peer thread's */

	loop_timer_set(n->loop, &n->tick, TICK_MS);
	send_tick(n);
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].sending && n->peers[i].session != NULL)
			send_pump(&n->peers[i]);
	replay_tick(n->replay);
	recv_flush(n);
	level_tick(n->level);
	prove_tick(n);
	look_tick(n);
	asides_tick(n, clock_ms());
	if (clock_ms() >= next_facts) {
		next_facts = clock_ms() + FACTS_MS;
		publish_all(n);
	}
	if (n->stopping)
		loop_stop(n->loop);
}

static void *
peer_thread(void *arg)
{
	struct node *n = arg;

	store_adopt(n->store);
	loop_timer_set(n->loop, &n->tick, 0);
	send_journal(n);
	int rc = loop_run(n->loop);
	if (rc != 0)
		log_err("the peer thread ended: %s", err_text(rc));
	return NULL;
}

/* ---- open, start, stop ---- */

static int
open_hub(struct node *n)
{
	struct hub_peer_conf peers[SYNC_PEERS_MAX];
	struct hub_conf hc = { .loop = n->loop,
		.name = n->conf.name,
		.listen = n->conf.listen,
		.peers = peers,
		.n_peers = n->n_peers,
		.ops = &duty_ops,
		.node = n,
		.rate = n->conf.rate,
		.without = n->conf.without };
	int rc = link_tls_open(n->conf.state, &n->tls);

	if (rc != 0)
		return rc;
	hc.tls = n->tls;
	for (unsigned i = 0; i < n->n_peers; i++) {
		peers[i].name = n->conf.peers[i].name;
		peers[i].address = n->conf.peers[i].address;
		memcpy(peers[i].fingerprint, n->conf.peers[i].fingerprint, 32);
	}
	return hub_open(&hc, &n->hub);
}

/* What is queued or remembered for a peer is held back until it has confirmed it. One that was taken
 * out of the configuration never will. */
static int
forget_peers(struct node *n)
{
	struct journal_peer p;
	unsigned i = 0, k;
	int rc = 0;

	while (rc == 0 && journal_peer_at(n->journal, i, &p) == 0) {
		for (k = 0; k < n->n_peers; k++)
			if (strcmp(p.name, n->conf.peers[k].name) == 0)
				break;
		if (k < n->n_peers) {
			i++;
			continue;
		}
		log_info(
			"not configured any more, nothing is held back for it: peer=%s",
			p.name);
		rc = journal_peer_forget(n->journal, p.name);
	}
	return rc;
}

static int
open_store(struct node *n)
{
	struct journal_limits limits = { n->conf.journal_size, n->conf.journal_age };
	bool first = false, due;
	int rc;

	if ((rc = store_open(n->conf.state, &n->store)) != 0)
		return rc;
	spool_sweep(n->spool); /* nobody else has it: the state folder is locked */
	if ((rc = journal_open(n->store, &limits, &n->journal)) != 0 ||
		(rc = forget_peers(n)) != 0 ||
		(rc = inbox_open(n->store, &n->inbox)) != 0 ||
		(rc = notes_open(n->conf.state, &n->notes)) != 0 ||
		(rc = settled_open(n->notes, n->store, &n->settled)) != 0)
		return rc;
	rc = epoch_load(n->store, &n->epoch);
	if (rc == ERR_NOTFOUND) {
		first = true;
		if ((rc = adopt_announce(n)) == 0)
			rc = epoch_found(n->store,
				n->conf.role == SYNC_ACTIVE ? EPOCH_ACTIVE
							    : EPOCH_STANDBY,
				n->conf.name, &n->epoch);
	}
	if (rc != 0 || (rc = adopt_is_due(n, &due)) != 0)
		return rc;
	n->role = n->epoch.role == EPOCH_ACTIVE ? SYNC_ACTIVE : SYNC_STANDBY;
	n->unsure = n->role == SYNC_STANDBY;
	if ((rc = hello_load(n)) != 0 || (rc = adopt_load(n)) != 0 ||
		(n->role == SYNC_STANDBY && (rc = flush_open(n)) != 0))
		return rc;
	bool clean = store_was_clean(n->store);
	if ((rc = gap_load(n)) != 0)
		return rc;
	node_count_asides(n);
	ask_load(n);
	if (n->role == SYNC_ACTIVE)
		rc = journal_resume(n->journal, epoch_current(&n->epoch.line), 0);
	else
		rc = store_set_clean(n->store, false);
	if (rc != 0)
		return rc;
	struct journal_facts jf;
	journal_facts(n->journal, &jf);
	n->journal_last = jf.last.seq;
	if (n->role == SYNC_ACTIVE &&
		(rc = kept_open(n->spool, n->journal_last, &n->kept)) != 0)
		return rc;
	n->confirmed = journal_confirmed(n->journal);
	if (n->role == SYNC_ACTIVE)
		gap_moves(n);
	if (due)
		rc = adopt_spool(n);
	/* What was adopted is as it is on disk: then only the noted paths are looked at. */
	if (rc == 0 && !first && n->role == SYNC_ACTIVE && !clean)
		rc = gap_close(n, n->conf.takeover || due);
	n->clean_start = clean;
	return rc;
}

int
sync_open(const struct sync_conf *conf, struct spool *spool,
	const struct sync_hooks *hooks, struct sync **out)
{
	struct level_conf lc = { .refuse = conf->refuse,
		.limit_ms = conf->level_limit,
		.n_peers = conf->n_peers };
	struct sync *s = calloc(1, sizeof(*s));
	struct node *n;
	int rc = ERR_NOMEM;

	if (s == NULL)
		return rc;
	n = &s->node;
	n->conf = *conf;
	n->spool = spool;
	if (hooks != NULL)
		n->hooks = *hooks;
	n->n_peers = conf->n_peers;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->changed, NULL);
	n->wake = (struct loop_call){ .fn = on_wake, .arg = n };
	n->hook = (struct loop_hook){ .fn = on_turn, .arg = n };
	n->tick = (struct loop_timer){ .fn = on_tick, .arg = n };
	n->group = (struct loop_timer){ .fn = on_group, .arg = n };
	n->ack = (struct loop_timer){ .fn = recv_ack, .arg = n };
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		p->node = n;
		p->i = i;
		p->conf = &n->conf.peers[i];
		p->wanted_end = &p->wanted;
		p->repairs_end = &p->repairs;
		p->body.fd = -1;
	}
	memcpy(lc.level, conf->level, sizeof(lc.level));
	if ((rc = level_open(&lc, &n->level)) != 0 || (rc = loop_open(&n->loop)) != 0 ||
		(rc = mboxes_open(&n->mboxes)) != 0 ||
		(rc = outq_open(n->loop, &n->wake, &n->outq)) != 0 ||
		(rc = refs_open(&n->refs)) != 0 || (rc = moves_open(&n->moves)) != 0 ||
		(rc = moving_open(&n->moving)) != 0 ||
		(rc = held_open(spool, &n->held)) != 0 || (rc = open_store(n)) != 0 ||
		(rc = open_hub(n)) != 0)
		goto out;
	level_journaled(n->level, 0, n->journal_last);
	*out = s;
	return 0;
out:
	sync_stop(s, false);
	return rc;
}

int
sync_start(struct sync *s)
{
	struct node *n = &s->node;
	int rc = 0;

	if (n->role == SYNC_STANDBY)
		rc = replay_open(n, n->conf.workers ? n->conf.workers : 2,
			!n->clean_start, &n->replay);
	if (rc != 0)
		return rc;
	loop_hook_add(n->loop, &n->hook);
	publish_all(n);
	if ((rc = pthread_create(&n->thread, NULL, peer_thread, n)) != 0) {
		log_err("cannot start the peer thread: %s", strerror(rc));
		return ERR_NOMEM;
	}
	n->thread_runs = true;
	return 0;
}

void
sync_stop(struct sync *s, bool clean)
{
	struct node *n;

	if (s == NULL)
		return;
	n = &s->node;
	if (n->thread_runs) {
		n->stopping = true;
		loop_raise(n->loop, &n->wake);
		pthread_join(n->thread, NULL);
		store_adopt(n->store);
		send_journal(n);
	}
	pthread_mutex_lock(&n->lock);
	n->stopping = true;
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
	if (n->hub != NULL)
		hub_close(n->hub, n->thread_runs ? BYE_MS : 0);
	clean &= replay_close(n->replay);
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		send_stop(p);
		buf_fini(&p->row);
		free(p->asides);
		if (p->cursor_dirty)
			journal_peer_set(n->journal, &p->cursor);
	}
	if (n->journal != NULL)
		journal_close(n->journal);
	if (n->inbox != NULL)
		inbox_close(n->inbox);
	bool synced = clean && n->store != NULL && n->stuck == NULL &&
		      store_set_clean(n->store, true) == 0;
	settled_close(n->settled, synced);
	if (n->notes != NULL)
		notes_close(n->notes);
	store_close(n->store);
	link_tls_close(n->tls);
	outq_close(n->outq);
	refs_close(n->refs);
	moves_close(n->moves);
	moving_close(n->moving);
	held_close(n->held);
	level_close(n->level);
	arrivals_close(n->arrivals);
	kept_close(n->kept);
	mboxes_close(n->mboxes);
	if (n->loop != NULL)
		loop_close(n->loop);
	for (size_t i = 0; i < n->cap_arrived; i++)
		buf_fini(&n->arrived_bytes[i]);
	free(n->arrived);
	buf_fini(&n->line);
	free(n->asks);
	free(n->arrived_bytes);
	pthread_mutex_destroy(&n->lock);
	pthread_cond_destroy(&n->changed);
	free(s);
}

bool
sync_is_outdated(struct sync *s)
{
	char text[1];

	return hello_outdated(&s->node, text, sizeof(text));
}

enum sync_role
sync_role(const struct sync *s)
{
	return s->node.role;
}

int
sync_stored_role(const char *state, enum sync_role *role_out)
{
	struct store *store = NULL;
	struct epoch at;
	int rc = store_open(state, &store);

	if (rc == 0)
		rc = epoch_load(store, &at);
	if (rc == 0)
		*role_out = at.role == EPOCH_ACTIVE ? SYNC_ACTIVE : SYNC_STANDBY;
	store_close(store);
	return rc;
}

/* ---- waiting ---- */

/* Under the lock. What keeps the wait from being over. */
static bool
lacks(struct node *n, uint64_t ticket, uint64_t *seq, struct buf *text)
{
	bool any = false, comparing = false;

	if (text != NULL)
		buf_clear(text);
	if (outq_settled_upto(n->outq) < ticket) {
		if (text != NULL)
			buf_printf(text, "changes are not in the journal yet\n");
		return true;
	}
	if (*seq == 0)
		*seq = n->journal_last;
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct sync_peer_facts *pf = &n->facts.peers[i];
		bool whole = pf->connected && strcmp(pf->state, "streaming") == 0;
		if (whole && pf->applied >= *seq)
			continue;
		any = true;
		comparing |= !whole;
		if (text == NULL)
			continue;
		if (!pf->connected)
			buf_printf(text,
				"peer %s is not connected%s%s; it has %" PRIu64
				" of %" PRIu64 "\n",
				n->conf.peers[i].name, pf->error[0] ? ": " : "",
				pf->error, pf->applied, *seq);
		else
			buf_printf(text,
				"peer %s (%s) has applied %" PRIu64 " of %" PRIu64 "\n",
				n->conf.peers[i].name, pf->state, pf->applied, *seq);
	}
	/* What a comparison finds is journaled behind what was there: that counts too. */
	if (comparing)
		*seq = 0;
	return any;
}

static struct timespec
deadline(uint64_t ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += (time_t)(ms / 1000);
	ts.tv_nsec += (long)(ms % 1000) * 1000000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	return ts;
}

/* Waits under the lock until what is missing is not, or it is time to give up. */
struct patience {
	uint64_t until_ms;
	sync_on_fn *on;
	void *on_arg;
};

static int
wait_a_little(struct node *n, const struct patience *pa)
{
	struct timespec until = deadline(SLICE_MS);

	if (n->stopping)
		return ERR_CLOSED;
	if (n->later_epoch > epoch_current(&n->epoch.line))
		return ERR_ROLE;
	if (clock_ms() >= pa->until_ms)
		return ERR_TIMEOUT;
	/* Asked after every turn: news come often enough to keep a wait from timing out. */
	pthread_cond_timedwait(&n->changed, &n->lock, &until);
	if (pa->on != NULL) {
		pthread_mutex_unlock(&n->lock);
		bool on = pa->on(pa->on_arg);
		pthread_mutex_lock(&n->lock);
		if (!on)
			return ERR_CLOSED;
	}
	return 0;
}

int
sync_wait(struct sync *s, uint64_t timeout_ms, sync_on_fn *on, void *on_arg,
	struct buf *lack_out)
{
	struct node *n = &s->node;
	const struct patience pa = { clock_ms() + timeout_ms, on, on_arg };
	uint64_t ticket = outq_last(n->outq), seq = 0;
	char text[400];
	int rc = 0;

	if (n->role != SYNC_ACTIVE)
		return 0;
	pthread_mutex_lock(&n->lock);
	while (rc == 0 && lacks(n, ticket, &seq, lack_out))
		rc = wait_a_little(n, &pa);
	pthread_mutex_unlock(&n->lock);
	if (hello_outdated(n, text, sizeof(text))) {
		rc = ERR_ROLE; /* nobody who could confirm anything follows us */
		if (lack_out != NULL) {
			buf_clear(lack_out);
			buf_printf(lack_out, "%s\n", text);
		}
	}
	return rc;
}

/* Under the lock. */
static bool
unproved(struct node *n, uint64_t id, struct buf *text, bool *wrong)
{
	bool any = false;

	if (text != NULL)
		buf_clear(text);
	*wrong = false;
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		if (p->proved_id < id) {
			any = true;
			if (text != NULL)
				buf_printf(text, "peer %s has not confirmed its sum\n",
					p->conf->name);
		} else if (!p->proved_ok) {
			*wrong = true;
			if (text != NULL)
				buf_printf(text, "peer %s: %s\n", p->conf->name,
					p->proved_text);
		} else if (p->proved_mended > 0 && text != NULL) {
			buf_printf(text,
				"peer %s differed, and was compared: mailboxes=%" PRIu64
				"; it is equal now%s%s\n",
				p->conf->name, p->proved_mended,
				p->proved_text[0] ? "; " : "", p->proved_text);
		}
	}
	return any;
}

static int
ask_proof(struct sync *s, const struct patience *pa, struct buf *lack_out)
{
	struct node *n = &s->node;
	uint64_t now = clock_ms();
	bool wrong = false;
	int rc;

	if ((rc = sync_wait(s, pa->until_ms > now ? pa->until_ms - now : 0, pa->on,
		     pa->on_arg, lack_out)) != 0)
		return rc;
	pthread_mutex_lock(&n->lock);
	uint64_t id = ++n->prove_ids;
	while (rc == 0 && unproved(n, id, lack_out, &wrong))
		rc = wait_a_little(n, pa);
	pthread_mutex_unlock(&n->lock);
	return rc != 0 ? rc : wrong ? ERR_SUM : 0;
}

/* Where the first answer is no, a comparison began with it: its end is waited for. */
int
sync_prove(struct sync *s, uint64_t timeout_ms, sync_on_fn *on, void *on_arg,
	struct buf *lack_out)
{
	const struct patience pa = { clock_ms() + timeout_ms, on, on_arg };
	int rc;

	if (s->node.role != SYNC_ACTIVE)
		return 0;
	if ((rc = ask_proof(s, &pa, lack_out)) == ERR_SUM)
		rc = ask_proof(s, &pa, lack_out);
	return rc;
}

bool
sync_greeted(struct sync *s)
{
	pthread_mutex_lock(&s->node.lock);
	bool all = s->node.n_peers == 0 || s->node.greeted_all;
	pthread_mutex_unlock(&s->node.lock);
	return all;
}

/* ---- questions of status ---- */

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
