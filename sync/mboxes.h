/*
 * mboxes.h - every mailbox and every lone path of this node, with its state as of the last batch.
 *
 * On the active side the state is the "before" of the next batch, on a standby the one that
 * replay checks against. All entries are in memory; the store has them on disk.
 *
 * A lone path (a file, folder, link outside any mailbox) is an entry too, under the key "/path",
 * with the digest of its attributes as the sum, so that comparing two nodes is one walk. There
 * may be millions of them: its entry has no state.
 *
 * Threads  any. An entry's contents belong to the holder of its lock.
 * Locks    the entry lock, then the table's own (inside, never held around a call out).
 */
#ifndef SYNC_MBOXES_H
#define SYNC_MBOXES_H

#include "meta/base/path.h"
#include "meta/mbox.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mboxes;

struct mboxent {
	pthread_mutex_t lock;
	/* under the lock */
	struct mbox_state *state; /* NULL: a lone path */
	struct sum digest; /* of a lone path */
	bool has_more; /* aside, for it holds what the active side lacks */
	bool redo; /* state was not recorded for sure: recompute from disk */
	bool redone; /* this life has: a row done again has led to its sum */
	bool prove; /* after a crash it did not fit: its messages are what their bytes say */
	bool open; /* the peer thread's: rows were skipped for a repair that has not come */
	bool asking; /* the peer thread's: waits to be asked for */
	uint32_t looked; /* a lone path: how often it was begun to be looked at */
	uint32_t round; /* of the comparison that named it last */
	uint64_t
		moved; /* the move that gave it this name, counted; 0: none in this life */
	/* changed under the lock, looked at without it as well */
	_Atomic bool known; /* false: no such mailbox (any more) */
	_Atomic bool aside; /* in quarantine */
	_Atomic bool repairing; /* a standby asked for this mailbox to be compared */
	/* nothing could be done for it under this name: asked again after a move */
	_Atomic bool owed;
	_Atomic uint32_t repairs; /* how often in a row without success */
	/* the table's */
	bool counted, dirty;
	struct mboxent *next, *dirty_next;
	struct mboxent *id_next;
	uint32_t id_hash;
	/* fixed */
	uint32_t dir_hash;
	char dir[];
};

int mboxes_open(struct mboxes **out);
void mboxes_close(struct mboxes *t);

/* So many entries are about to be made. */
void mboxes_expect(struct mboxes *t, uint64_t n);
/* The entry of dir, made if it is new; NULL when memory is short. Entries live until close. */
struct mboxent *mboxes_get(struct mboxes *t, const char *dir);
/* The entry, or NULL. */
struct mboxent *mboxes_find(struct mboxes *t, const char *dir);
/* The entry became known or unknown, or has another uniqueid: keeps the index by id and the count
 * true. Under the entry's lock. */
void mboxes_identify(struct mboxes *t, struct mboxent *e);
/* Another known directory with that id than not_dir, or NULL: a rename under way (F7.3). */
struct mboxent *
mboxes_twin(struct mboxes *t, const char *uniqueid, const char *not_dir);
struct mboxent *mboxes_by_id(struct mboxes *t, const char *uniqueid);

/* A standby: what the store has of e is old, also if e is not known any more. Under its lock. */
void mboxes_dirty(struct mboxes *t, struct mboxent *e);
/* Those of which that was said since the last call; the caller frees the array. NULL: no memory, and
 * nothing was taken. */
struct mboxent **mboxes_take_dirty(struct mboxes *t, size_t *n_out);

/* A stable list of all entries at this moment, in no order; the caller frees the array. */
struct mboxent **mboxes_list(struct mboxes *t, size_t *n_out);
/* Known mailboxes. */
uint64_t mboxes_count(struct mboxes *t);

/* The sum of everything: each known entry's key with its sum, aside ones left out. */
struct sum mboxes_total(struct mboxes *t);

/* With the entry's lock held: its uniqueid ("" for a path), the sum that peers compare, and what
 * the store keeps of it. */
const char *mboxes_id(const struct mboxent *e);
struct sum mboxes_sum(const struct mboxent *e);
int mboxes_encode(const struct mboxent *e, struct buf *out);
int mboxes_decode(struct mboxent *e, const void *p, size_t n);

static inline bool
mboxes_is_path(const char *dir)
{
	return dir[0] == '/';
}

/* path_rest of a mailbox's folder or a lone path's key. */
static inline const char *
mboxes_rest(const char *key, const char *folder)
{
	return path_rest(key + mboxes_is_path(key), folder);
}

#endif
