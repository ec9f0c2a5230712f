/*
 * arrivals.h - what a standby has received, on disk by one sync: the level `flushed`.
 *
 * A log of rows and small bodies in the order in which they came, written and synced as one piece
 * for everything that arrived meanwhile. Inbox and spool follow without a sync of their own, and a
 * piece of the log is used again when replay of all its rows is recorded. After a crash what the
 * inbox and the memory have lost is taken from here.
 *
 * Owns     the files STATE/arrivals.N. Copies what it is given.
 * Threads  one, that of the store.
 * Errors   ERR_FULL, ERR_IO...: nothing since the last good sync is safe; the next one may succeed.
 */
#ifndef SYNC_ARRIVALS_H
#define SYNC_ARRIVALS_H

#include "meta/base/hash.h"
#include "sync/inbox.h"

struct arrivals;

/* Opens what is there; makes no file. */
int arrivals_open(const char *folder, struct arrivals **out);
void arrivals_close(struct arrivals *a);

/* What was left, in order: the bodies of rows above `applied`, and those rows. Pointers live until
 * the callback returns; a result other than 0 ends the walk and is passed on; a callback may be
 * NULL. Before anything is added. */
struct arrivals_found {
	int (*staged)(void *arg, const uint8_t guid[SHA1_LEN]);
	int (*body)(void *arg, const uint8_t guid[SHA1_LEN], const void *p, size_t n);
	int (*row)(void *arg, const struct inbox_item *item);
};
int arrivals_load(struct arrivals *a, struct pos applied,
	const struct arrivals_found *found, void *arg);

/* In the order of arrival: the bodies of a row come before it. A failure shows in the sync. */
void arrivals_body(
	struct arrivals *a, const uint8_t guid[SHA1_LEN], const void *p, size_t n);
/* A large one, which is on disk by itself. */
void arrivals_staged(struct arrivals *a, const uint8_t guid[SHA1_LEN]);
void arrivals_row(struct arrivals *a, const struct inbox_item *item);
/* What was added is on disk. */
int arrivals_sync(struct arrivals *a);
/* The row of the bodies that came last will not come. */
void arrivals_cut(struct arrivals *a);
/* All of it is recorded, and positions begin anew: nothing of it may come back. Synced. */
int arrivals_forget(struct arrivals *a);
/* Everything up to pos is replayed, and that is recorded. */
void arrivals_trim(struct arrivals *a, struct pos pos);

struct arrivals_facts {
	uint64_t syncs, bytes; /* since the start */
	unsigned pieces;
	uint64_t size; /* of their files */
};
void arrivals_facts(const struct arrivals *a, struct arrivals_facts *out);

#endif
