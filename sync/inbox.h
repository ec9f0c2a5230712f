/*
 * inbox.h - the standby's side: batches that were received, until their replay is on disk.
 *
 * A row is PENDING, DONE (replayed, known in memory only), APPLIED (recorded after a sync of the
 * spool) or HELD (its mailbox is quarantined). Rows are deleted when every row before them is
 * APPLIED or HELD and they are APPLIED themselves. After a crash the rows that are not recorded
 * as applied come again, in order.
 *
 * Owns     tables "inbox" and "quarantine" of state.db.
 * Threads  that of the store.
 * Errors   as in store.h.
 */
#ifndef SYNC_INBOX_H
#define SYNC_INBOX_H

#include "sync/pos.h"
#include "sync/store.h"

struct inbox;

int inbox_open(struct store *s, struct inbox **out);
/* What is DONE but not recorded will come again. */
void inbox_close(struct inbox *in);

struct inbox_item {
	struct pos pos;
	const char *dir; /* of the mailbox; "" for a path change */
	const void *bytes;
	size_t n;
};

/*
 * Stores a burst in one synced transaction, all or nothing, and moves the received position.
 * Items are in order; those at or below the received position are duplicates and left out
 * (stored_out, may be NULL: how many were stored). A quarantined mailbox's are HELD.
 */
int inbox_put(
	struct inbox *in, const struct inbox_item *items, size_t n, size_t *stored_out);

/* The same when the rows are on disk elsewhere (arrivals.h) and come again from there: not synced. */
int inbox_put_relaxed(struct inbox *in, const struct inbox_item *items, size_t n);

enum inbox_state { INBOX_PENDING, INBOX_DONE, INBOX_APPLIED, INBOX_HELD };
typedef int inbox_fn(void *arg, const struct inbox_item *item, enum inbox_state state);

/* Rows that are PENDING, with pos above `above`, in order, at least one and then up to max_bytes.
 * Pointers live until the callback returns; it may not call into inbox or store. A result other
 * than 0 ends the walk and is passed on. */
int inbox_walk_pending(struct inbox *in, struct pos above, uint64_t max_bytes,
	inbox_fn *fn, void *arg);
/* Every row that is PENDING or HELD. For tests, which see in no other way what is held. */
int inbox_walk_open(struct inbox *in, inbox_fn *fn, void *arg);

/* The row was replayed (in any order across mailboxes). Memory only. ERR_NOTFOUND: no such row;
 * doing it twice is harmless. */
int inbox_done(struct inbox *in, struct pos pos);
/*
 * Recording: mark = inbox_mark(in); sync the spool, anywhere, taking as long as it takes;
 * inbox_record(in, mark) makes what was DONE at the mark APPLIED, in one synced transaction.
 */
uint64_t inbox_mark(struct inbox *in);
int inbox_record(struct inbox *in, uint64_t mark);
/* Is every row before pos DONE, APPLIED or HELD? Removals wait for it (design 7). */
bool inbox_settled_before(struct inbox *in, struct pos pos);
/* Is every row up to pos APPLIED or HELD, so that no crash brings one back? */
bool inbox_recorded_upto(struct inbox *in, struct pos pos);

struct inbox_facts {
	struct pos received; /* all up to it are stored */
	struct pos
		applied; /* all up to it are APPLIED or HELD, recorded: for ACK and HELLO */
	struct pos
		done; /* the same, counting DONE: visible, not yet proof against a crash */
	uint64_t pending, done_rows, held;
	uint64_t bytes; /* of all rows kept */
};
void inbox_facts(struct inbox *in, struct inbox_facts *out);

/* Everything is equal up to pos (a comparison begins there): received = applied = pos. Rows that
 * are APPLIED or HELD go. ERR_BUSY while one is PENDING or DONE. Synced. */
int inbox_rebase(struct inbox *in, struct pos pos);

/* ---- mailboxes that were set aside, on either side of the link ---- */

struct inbox_quarantine {
	const char *dir;
	uint32_t uid; /* of the message, or 0 */
	const char *check; /* name of the check that failed */
	const char *text; /* one line for people, with the cure */
	uint64_t since; /* wall clock, ns; on put 0 means now */
	struct pos pos; /* of the batch at which it was noticed */
};
typedef int inbox_quarantine_fn(void *arg, const struct inbox_quarantine *q);

/* Sets the mailbox aside (or renews the reason; since stays); its PENDING rows become HELD.
 * Synced. */
int inbox_quarantine_put(struct inbox *in, const struct inbox_quarantine *q);
bool inbox_quarantined(struct inbox *in, const char *dir);
int inbox_quarantine_walk(struct inbox *in, inbox_quarantine_fn *fn, void *arg);
uint64_t inbox_quarantine_count(struct inbox *in);
/*
 * Takes it off the list. With redo its HELD rows become PENDING again, to be replayed in order;
 * without, they are dropped, for the mailbox was made equal by comparison. Synced. ERR_NOTFOUND.
 */
int inbox_quarantine_release(struct inbox *in, const char *dir, bool redo);

#endif
