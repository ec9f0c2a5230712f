/*
 * journal.h - batches in the order they were committed, and how far each peer has them.
 *
 * An append needs no sync (design 4): what a power cut takes from the tail is derived again, in
 * a new run. Appends come in groups, one transaction for many batches and the mailbox states
 * that go with them; store_mbox_* calls between begin and commit belong to the group.
 *
 * Owns     tables "journal" and "meta" of journal.db, "runs" and "peers" of state.db. Rows
 *          handed to a callback live until it returns.
 * Threads  that of the store.
 * Errors   as in store.h. After a failure inside a group, journal_commit undoes the whole group
 *          and returns that error; seqs given out in it were not used.
 */
#ifndef SYNC_JOURNAL_H
#define SYNC_JOURNAL_H

#include "sync/pos.h"
#include "sync/store.h"

enum { JOURNAL_PEERS_MAX = 32, JOURNAL_NAME_MAX = 64 };

struct journal;

/* What is kept at most for peers that have not confirmed it. 0: no limit. */
struct journal_limits {
	uint64_t bytes;
	uint64_t age_ms;
};

int journal_open(
	struct store *s, const struct journal_limits *limits, struct journal **out);
/* Writes the peers' cursors. */
void journal_close(struct journal *j);

/*
 * Makes the journal writable in this epoch; before it an append answers ERR_ROLE. Opens a new
 * run, whose first seq is above floor and everything seen before; also after a clean stop, for a
 * state folder may be a copy of an older one. Clears the clean mark. Synced.
 */
int journal_resume(struct journal *j, uint64_t epoch, uint64_t floor);

struct journal_entry {
	const char *dir; /* of the mailbox; "/PATH" for a path change, "" for a move */
	const void *bytes; /* the encoded batch, at most STORE_MAX_BLOB */
	size_t n;
	/* What the mailbox is after it, stored with it; state NULL: nothing to store. */
	const char *uniqueid;
	const void *state;
	size_t state_n;
};

/* Groups do not nest. Without a group, an append is one by itself. */
int journal_begin(struct journal *j);
int journal_append(struct journal *j, const struct journal_entry *e, uint64_t *seq_out);
int journal_commit(struct journal *j);
void journal_rollback(struct journal *j);

struct journal_row {
	struct pos pos;
	uint64_t time; /* wall clock at the append, ns */
	const char *dir;
	const void *bytes;
	size_t n;
};
/* What a row of n bytes counts for, and says of itself. */
uint64_t journal_row_size(const char *dir, size_t n);
typedef int journal_fn(void *arg, const struct journal_row *row);

/*
 * Rows with seq >= from in order, until max_bytes are reached (at least one row). The callback
 * may not call into journal or store; a result other than 0 ends the walk and is passed on.
 * next_out: where to read on (the seq behind the last row the callback took with 0).
 * ERR_GONE: from is no longer held.
 */
int journal_read(struct journal *j, uint64_t from, uint64_t max_bytes, journal_fn *fn,
	void *arg, uint64_t *next_out);

struct journal_facts {
	struct pos
		last; /* of the last append, even if trimmed since; POS_NONE: none ever */
	uint64_t epoch,
		run; /* of the newest run, which may have no append yet; 0: no run */
	uint64_t first; /* oldest seq held; above last.seq if none is */
	uint64_t rows, bytes;
	uint64_t oldest; /* wall clock of the oldest row held, ns; 0 if none */
	uint64_t newest; /* the same of the last append, even if trimmed since */
	uint64_t trimmed; /* highest seq that was trimmed */
	bool writable;
};
void journal_facts(struct journal *j, struct journal_facts *out);

/* ---- peers ---- */

enum journal_peer_state {
	JOURNAL_PEER_NEVER, /* configured, never caught up: needs a comparison, holds nothing */
	JOURNAL_PEER_STREAMING, /* what it has not applied is kept for it */
	JOURNAL_PEER_COMPARING, /* the same, but compare again from the start if cut off */
	JOURNAL_PEER_BEHIND /* what it lacked was trimmed: needs a comparison, holds nothing */
};

struct journal_peer {
	char name[JOURNAL_NAME_MAX];
	enum journal_peer_state state;
	uint64_t epoch, run; /* of the journal that the numbers are about */
	uint64_t received, flushed, applied; /* seqs of ours, never above our last */
};

/* Copies; ERR_NOTFOUND. Index from 0 in the order of names, for walking. */
int journal_peer_get(struct journal *j, const char *name, struct journal_peer *out);
int journal_peer_at(struct journal *j, unsigned i, struct journal_peer *out);
/* Adds or replaces. A new state is synced at once; numbers are written lazily, for a lost
 * update only makes us send again. ERR_LIMIT: too many peers. */
int journal_peer_set(struct journal *j, const struct journal_peer *p);
/* A peer that was taken out of the configuration. */
int journal_peer_forget(struct journal *j, const char *name);

/* The smallest applied seq of the peers that hold something; UINT64_MAX if none does. */
uint64_t journal_confirmed(struct journal *j);

/*
 * Drops what every peer has applied and what is over the limits, a bounded piece at a time. A
 * peer that loses an unconfirmed row is marked BEHIND first, synced, logged and told in behind
 * (may be NULL). more_out (may be NULL): there is more to drop, call again soon.
 */
typedef void journal_behind_fn(void *arg, const struct journal_peer *p);
int
journal_trim(struct journal *j, journal_behind_fn *behind, void *arg, bool *more_out);

/* What to do about a peer that says it holds our journal up to a position. */
enum journal_verdict {
	JOURNAL_STREAM, /* send from *from_out on */
	JOURNAL_COMPARE_NEW, /* it holds nothing */
	JOURNAL_COMPARE_BEHIND, /* what it needs next was trimmed */
	JOURNAL_COMPARE_BEYOND /* its run is unknown here or reaches beyond what we have of it */
};
const char *journal_verdict_text(enum journal_verdict v);
/* Only positions of the newest run's epoch can be streamed from, and base (may be NULL), the
 * position at which that epoch began (epoch.h): it streams from the epoch's first batch. */
enum journal_verdict journal_judge(
	struct journal *j, struct pos at, const struct pos *base, uint64_t *from_out);

#endif
