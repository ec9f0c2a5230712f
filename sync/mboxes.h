/*
 * mboxes.h - every mailbox and every lone path of this node, with its state as of the last batch.
 *
 * On the active side the state is the "before" of the next batch, on a standby the one that
 * replay checks against. All entries are in memory; the store has them on disk.
 *
 * A lone path (a file, folder, link outside any mailbox) is an entry too, under the key "=path",
 * with the digest of its attributes as the sum, so that comparing two nodes is one walk.
 *
 * Threads  any. An entry's contents belong to the holder of its lock.
 * Locks    the entry lock, then the table's own (inside, never held around a call out).
 */
#ifndef SYNC_MBOXES_H
#define SYNC_MBOXES_H

#include "meta/mbox.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mboxes;

struct mboxent {
	pthread_mutex_t lock;
	/* under the lock */
	struct mbox_state state; /* a lone path uses only sum.records */
	_Atomic bool
		known; /* counted without the lock. false: no such mailbox (any more) */
	_Atomic bool aside; /* in quarantine; looked at without the lock */
	bool redo; /* state was not recorded for sure: recompute from disk */
	bool dirty; /* a standby: state is newer than the stored one */
	bool repairing; /* a standby asked for this mailbox to be compared */
	bool owed; /* nothing could be done for it under this name: asked again after a move */
	bool open; /* the peer thread's: rows were skipped for a repair that has not come */
	bool asking; /* the peer thread's: waits to be asked for */
	uint32_t looked; /* a lone path: how often it was begun to be looked at */
	uint32_t round; /* of the comparison that named it last */
	uint32_t repairs; /* how often in a row without success */
	uint64_t
		moved; /* the move that gave it this name, counted; 0: none in this life */
	/* fixed */
	char *dir;
	/* the table's */
	struct mboxent *next;
	struct mboxent *id_next;
	uint64_t id_hash;
};

int mboxes_open(struct mboxes **out);
void mboxes_close(struct mboxes *t);

/* The entry of dir, made if it is new; NULL when memory is short. Entries live until close. */
struct mboxent *mboxes_get(struct mboxes *t, const char *dir);
/* The entry, or NULL. */
struct mboxent *mboxes_find(struct mboxes *t, const char *dir);
/* The state under the entry's lock changed its uniqueid: keeps the index by id true. */
void mboxes_identify(struct mboxes *t, struct mboxent *e);
/* Another known directory with that id than not_dir, or NULL: a rename under way (F7.3). */
struct mboxent *
mboxes_twin(struct mboxes *t, const char *uniqueid, const char *not_dir);
struct mboxent *mboxes_by_id(struct mboxes *t, const char *uniqueid);

/* A stable list of all entries at this moment, in no order; the caller frees the array. */
struct mboxent **mboxes_list(struct mboxes *t, size_t *n_out);
/* Known mailboxes. */
uint64_t mboxes_count(struct mboxes *t);

/* The sum of everything: each known entry's key with its sum, aside ones left out. */
struct sum mboxes_total(struct mboxes *t);

static inline bool
mboxes_is_path(const char *dir)
{
	return dir[0] == '=';
}

#endif
