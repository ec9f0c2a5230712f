/*
 * One list of waiters under one lock. They are few (each is a user whose mailbox is locked), so
 * every piece of news walks the list. What is answered is taken out under the lock and called
 * after it: the call writes to the kernel.
 *
 * Caught up. At level `applied` a peer under load is always a little behind, so "has everything"
 * never comes true. A mark is set at the journal's end and the time taken until the peer has
 * confirmed it; when that was short enough a wait would be too.
 */
#include "sync/level.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CAUGHT_UP_MS = 1000, CAUGHT_UP_PART = 4 };
#define NOT_YET UINT64_MAX /* as a seq: not in the journal */

const uint64_t sync_wait_bucket_ms[SYNC_WAIT_BUCKETS - 1] = { 1, 2, 5, 10, 20, 50, 100,
	200, 500, 1000, 2000, 5000, 10000 };

struct waiter {
	struct waiter *next;
	enum sync_level level;
	uint64_t ticket;
	uint64_t seq; /* or NOT_YET */
	uint64_t since_ms;
	sync_confirmed_fn *fn;
	void *arg;
};

struct other {
	bool here;
	uint64_t upto[SYNC_LEVELS];
};

struct level {
	struct level_conf c;
	enum sync_level most;
	pthread_mutex_t lock;
	struct waiter *first, **end;
	unsigned n;
	uint64_t ticket, seq; /* of the last journaling */
	struct other peers[SYNC_PEERS_MAX];
	bool alone, forced;
	int failed; /* a code: nobody is confirmed any more */
	uint64_t gone_ms; /* since when not all peers are here; 0: they are */
	uint64_t mark, mark_ms; /* see above; 0: none is set */
	struct sync_level_facts facts; /* counters */
};

int
level_open(const struct level_conf *conf, struct level **out)
{
	struct level *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return ERR_NOMEM;
	l->c = *conf;
	l->most = SYNC_LOCAL;
	for (unsigned k = 0; k < SYNC_KINDS; k++)
		if (l->c.level[k] > l->most)
			l->most = l->c.level[k];
	l->end = &l->first;
	l->gone_ms = clock_ms();
	pthread_mutex_init(&l->lock, NULL);
	*out = l;
	return 0;
}

/* ---- answering ---- */

struct answered {
	struct waiter *first, **end;
};

/* Takes the waiter at *at out, for an answer. */
static void
take(struct level *l, struct waiter **at, uint64_t now, struct answered *to)
{
	struct waiter *w = *at;
	uint64_t ms = now - w->since_ms;
	unsigned b = 0;

	*at = w->next;
	if (l->end == &w->next)
		l->end = at;
	l->n--;
	while (b < SYNC_WAIT_BUCKETS - 1 && ms > sync_wait_bucket_ms[b])
		b++;
	l->facts.waits[b]++;
	l->facts.waits_total++;
	l->facts.waited_ms += ms;
	w->next = NULL;
	*to->end = w;
	to->end = &w->next;
}

static void
answer(struct answered *a, int code)
{
	while (a->first != NULL) {
		struct waiter *w = a->first;
		a->first = w->next;
		w->fn(w->arg, code);
		free(w);
	}
}

static bool
is_confirmed(const struct level *l, const struct waiter *w)
{
	if (w->seq == NOT_YET)
		return false;
	for (unsigned i = 0; i < l->c.n_peers; i++)
		if (!l->peers[i].here || l->peers[i].upto[w->level] < w->seq)
			return false;
	return true;
}

/* Takes out who is confirmed, or, without waiting, everybody. */
static void
collect(struct level *l, struct answered *to)
{
	uint64_t now = clock_ms();
	bool all = l->failed != 0 || (l->alone && (!l->c.refuse || l->forced));

	for (struct waiter **at = &l->first; *at != NULL;) {
		bool confirmed = l->failed == 0 && is_confirmed(l, *at);
		if (!confirmed && !all) {
			at = &(*at)->next;
			continue;
		}
		if (!confirmed && l->failed == 0)
			l->facts.unconfirmed++;
		take(l, at, now, to);
	}
}

/* Ends every change: answers who may be answered now, without the lock. */
static void
finish(struct level *l)
{
	struct answered a = { NULL, &a.first };
	int code = l->failed;

	collect(l, &a);
	pthread_mutex_unlock(&l->lock);
	answer(&a, code);
}

void
level_close(struct level *l)
{
	struct answered a = { NULL, &a.first };

	if (l == NULL)
		return;
	pthread_mutex_lock(&l->lock);
	while (l->first != NULL)
		take(l, &l->first, clock_ms(), &a);
	pthread_mutex_unlock(&l->lock);
	answer(&a, ERR_CLOSED);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* ---- those who wait ---- */

enum sync_level
level_strongest(const struct level *l, unsigned kinds)
{
	enum sync_level most = SYNC_LOCAL;

	for (unsigned k = 0; k < SYNC_KINDS; k++)
		if ((kinds & 1u << k) != 0 && l->c.level[k] > most)
			most = l->c.level[k];
	return most;
}

unsigned
level_wanted(const struct level *l)
{
	unsigned bits = 0;

	for (unsigned k = 0; k < SYNC_KINDS; k++)
		bits |= 1u << l->c.level[k];
	return bits & ~(1u << SYNC_LOCAL);
}

bool
level_wait(struct level *l, enum sync_level level, uint64_t ticket,
	sync_confirmed_fn *fn, void *arg)
{
	struct waiter *w;

	if (level == SYNC_LOCAL)
		return false;
	if ((w = calloc(1, sizeof(*w))) == NULL) {
		log_err("out of memory; a change is answered before a peer has it");
		return false;
	}
	w->level = level;
	w->ticket = ticket;
	w->since_ms = clock_ms();
	w->fn = fn;
	w->arg = arg;
	pthread_mutex_lock(&l->lock);
	w->seq = ticket <= l->ticket ? l->seq : NOT_YET;
	*l->end = w;
	l->end = &w->next;
	l->n++;
	finish(l);
	return true;
}

/* ---- news ---- */

void
level_journaled(struct level *l, uint64_t ticket, uint64_t seq)
{
	if (l->most == SYNC_LOCAL)
		return;
	pthread_mutex_lock(&l->lock);
	l->ticket = ticket;
	l->seq = seq;
	for (struct waiter *w = l->first; w != NULL; w = w->next)
		if (w->seq == NOT_YET && w->ticket <= ticket)
			w->seq = seq;
	finish(l);
}

static bool
all_here(const struct level *l)
{
	for (unsigned i = 0; i < l->c.n_peers; i++)
		if (!l->peers[i].here)
			return false;
	return true;
}

/* What every peer has confirmed at the strongest level. */
static uint64_t
confirmed_by_all(const struct level *l)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < l->c.n_peers; i++)
		if (l->peers[i].upto[l->most] < least)
			least = l->peers[i].upto[l->most];
	return least;
}

static void
look_back(struct level *l)
{
	uint64_t now = clock_ms(), part = l->c.limit_ms / CAUGHT_UP_PART;
	uint64_t enough = part < CAUGHT_UP_MS ? part : CAUGHT_UP_MS;

	if (!l->alone || !all_here(l) || l->failed != 0)
		return;
	if (l->mark_ms == 0) {
		l->mark = l->seq;
		l->mark_ms = now;
	}
	if (confirmed_by_all(l) < l->mark)
		return;
	if (now - l->mark_ms <= enough) {
		log_info("durability: the peers have caught up, answers wait for them "
			 "again: alone_ms=%" PRIu64,
			now - l->facts.alone_ms);
		l->alone = l->forced = false;
		l->facts.alone_since = 0;
		/* Their waits begin now: the limit is about what a peer does. */
		for (struct waiter *w = l->first; w != NULL; w = w->next)
			w->since_ms = now;
	}
	l->mark_ms = 0;
}

void
level_confirmed(struct level *l, unsigned peer, const uint64_t upto[SYNC_LEVELS])
{
	if (l->most == SYNC_LOCAL)
		return;
	pthread_mutex_lock(&l->lock);
	l->peers[peer].here = true;
	memcpy(l->peers[peer].upto, upto, sizeof(l->peers[peer].upto));
	if (all_here(l))
		l->gone_ms = 0;
	look_back(l);
	finish(l);
}

void
level_away(struct level *l, unsigned peer)
{
	if (l == NULL || l->most == SYNC_LOCAL)
		return;
	pthread_mutex_lock(&l->lock);
	memset(&l->peers[peer], 0, sizeof(l->peers[peer]));
	if (l->gone_ms == 0)
		l->gone_ms = clock_ms();
	l->mark_ms = 0;
	finish(l);
}

static void
be_alone(struct level *l, uint64_t now)
{
	l->alone = true;
	l->mark_ms = 0;
	l->facts.alone_since = clock_wall_ns();
	l->facts.alone_ms = now;
	l->facts.alones++;
	log_warn("durability: no peer has confirmed for %" PRIu64 " ms, %s: waiting=%u",
		l->c.limit_ms,
		l->c.refuse ? "no change is answered and none is let in"
			    : "changes are answered without a peer",
		l->n);
}

void
level_tick(struct level *l)
{
	uint64_t now = clock_ms();

	if (l->most == SYNC_LOCAL)
		return;
	pthread_mutex_lock(&l->lock);
	if (!l->alone && l->failed == 0 &&
		((l->first != NULL && now - l->first->since_ms >= l->c.limit_ms) ||
			(l->gone_ms != 0 && now - l->gone_ms >= l->c.limit_ms)))
		be_alone(l, now);
	look_back(l);
	finish(l);
}

unsigned
level_force(struct level *l)
{
	uint64_t now = clock_ms();

	pthread_mutex_lock(&l->lock);
	unsigned n = l->n;
	if (!l->alone && l->most != SYNC_LOCAL)
		be_alone(l, now);
	l->forced = true;
	log_warn("durability: forced, changes are answered without a peer until all "
		 "have caught up: waiting=%u",
		n);
	finish(l);
	return n;
}

void
level_fail(struct level *l, int code)
{
	pthread_mutex_lock(&l->lock);

	l->failed = code;
	finish(l);
}

bool
level_forced(struct level *l)
{
	pthread_mutex_lock(&l->lock);
	bool forced = l->forced;
	pthread_mutex_unlock(&l->lock);
	return forced;
}

bool
level_refusing(struct level *l)
{
	if (l->most == SYNC_LOCAL || !l->c.refuse)
		return false;
	pthread_mutex_lock(&l->lock);
	bool refusing = l->alone && !l->forced;
	pthread_mutex_unlock(&l->lock);
	return refusing;
}

void
level_facts(struct level *l, struct sync_level_facts *out)
{
	pthread_mutex_lock(&l->lock);
	*out = l->facts;
	memcpy(out->level, l->c.level, sizeof(out->level));
	out->refuse = l->c.refuse;
	out->limit_ms = l->c.limit_ms;
	out->waiting = l->n;
	out->oldest_ms = l->first == NULL ? 0 : clock_ms() - l->first->since_ms;
	out->state = l->most == SYNC_LOCAL ? SYNC_LEVEL_LOCAL
		     : l->failed != 0      ? SYNC_LEVEL_FAILED
		     : !l->alone           ? SYNC_LEVEL_WAITING
		     : l->forced           ? SYNC_LEVEL_FORCED
		     : l->c.refuse         ? SYNC_LEVEL_REFUSING
					   : SYNC_LEVEL_ALONE;
	pthread_mutex_unlock(&l->lock);
}
