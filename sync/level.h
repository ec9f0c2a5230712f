/*
 * level.h - who waits for the peers, for how much, and what is done when nobody confirms.
 *
 * A waiter is about everything handed in up to a ticket of the out queue. Once that is in the
 * journal it is a seq, and when each peer has confirmed that seq at the waiter's level its
 * function is called. Two states:
 *
 *   waiting   the normal one
 *   alone     a wait was longer than the limit, or a peer has been away for so long. Then either
 *             nobody waits (`continue`, or forced), or nobody is answered and the mount takes no new
 *             transactions (`refuse`)
 *
 * It ends when every peer is here again and no further behind than a part of the limit.
 *
 * Owns     copies of what waits; the function and its argument are the caller's.
 * Threads  level_wait, level_strongest, level_refusing, level_facts, level_force, level_forced,
 *          level_fail: any. The rest: the peer thread. A waiter's function is called from the thread that brought the news,
 *          without a lock.
 * Errors   level_open ERR_NOMEM.
 */
#ifndef SYNC_LEVEL_H
#define SYNC_LEVEL_H

#include "sync/sync.h"

struct level;

struct level_conf {
	enum sync_level level[SYNC_KINDS];
	bool refuse;
	uint64_t limit_ms;
	unsigned n_peers;
};

int level_open(const struct level_conf *conf, struct level **out);
/* Everybody who waits is told ERR_CLOSED. */
void level_close(struct level *l);

/* The strongest level of these kinds (bits); of all: what the peers are asked to confirm. */
enum sync_level level_strongest(const struct level *l, unsigned kinds);
/* Bits 1 << enum sync_level of the levels that some kind has. */
unsigned level_wanted(const struct level *l);

/* True: fn will be called, once, perhaps before this returns. False: there is nothing to wait
 * for. Without memory it is as if it were confirmed, and said in the log. */
bool level_wait(struct level *l, enum sync_level level, uint64_t ticket,
	sync_confirmed_fn *fn, void *arg);

/* All tickets up to this one are in the journal, whose last row is seq. Before anybody waits: ticket 0,
 * what an earlier life has journaled. */
void level_journaled(struct level *l, uint64_t ticket, uint64_t seq);
/* How far a peer has confirmed, by enum sync_level. It is here by that. */
void level_confirmed(struct level *l, unsigned peer, const uint64_t upto[SYNC_LEVELS]);
/* Its session is down, or it must be compared first. What it confirmed counts no more. */
void level_away(struct level *l, unsigned peer);
/* A few times a second. */
void level_tick(struct level *l);

/* An administrator's word: who waits is answered, and nobody waits until the peers have caught
 * up; at `local`, where nobody does, as long as this lives. Tells how many waited. */
unsigned level_force(struct level *l);
bool level_forced(struct level *l);
/* Who waits is told this code, and everybody who comes later. */
void level_fail(struct level *l, int code);
/* Alone, and nothing new may be let in. */
bool level_refusing(struct level *l);

void level_facts(struct level *l, struct sync_level_facts *out);

#endif
