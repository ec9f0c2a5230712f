/*
 * The wiring of layer 2, and the peer thread.
 *
 * Open runs on the caller's thread: store, table, own gap. Start hands store and loop to the peer
 * thread. What other threads may ask it is in facts.c and wait.c.
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

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 50, FACTS_MS = 100, BYE_MS = 1000 };

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
	uint64_t before = n->asides;

	n->asides = inbox_quarantine_count(n->inbox);
	if (n->role == SYNC_ACTIVE && n->asides < before)
		withheld_upto(n, n->journal_last, true);
	for (unsigned i = 0; i < n->n_peers; i++)
		n->peers[i].asides_told = false;
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
		node_publish_all(n);
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
	withheld_load(n);
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
	node_publish_all(n);
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
sync_is_stale(struct sync *s)
{
	char text[1];

	return hello_stale(&s->node, text, sizeof(text));
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
