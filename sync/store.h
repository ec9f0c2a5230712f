/*
 * store.h - what a slot remembers in its state folder, in two SQLite files.
 *
 *   journal.db  WAL, synchronous=NORMAL: the journal, the state of each mailbox as last
 *               journaled, tombstones. A crash of the process loses nothing of it, a power cut
 *               may lose its tail, which is derived again from the spool.
 *   state.db    WAL, synchronous=FULL: values, epochs, runs, cursors, inbox, quarantine. What a
 *               call here has answered with 0 is on disk.
 *
 * Owns     both files and the lock file beside them: one process at a time has a state folder
 *          open (ERR_BUSY for the second).
 * Threads  one, the peer loop: the thread that opened it, or the last that called store_adopt.
 *          Another one that calls aborts the process (unless NDEBUG). This holds for journal.h,
 *          inbox.h and epoch.h as well. Status readers get plain copies from that thread.
 * Errors   ERR_FULL: no space, nothing changed, try again later. ERR_STORE: the folder is
 *          read-only, or a file damaged; ERR_VERSION: written by a newer program; ERR_FOREIGN:
 *          not a file of ours. Each is logged with what to do, repeats at most every 10 s.
 */
#ifndef SYNC_STORE_H
#define SYNC_STORE_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STORE_MAX_DIR = 4096, STORE_MAX_ID = 256, STORE_MAX_BLOB = 64 << 20 };

struct store;

/*
 * Opens the state folder, which exists already; makes the files that are not there. An empty
 * folder is a first start. journal.db may be missing (moved away because it was damaged), or be
 * another one or an older copy: it is emptied, the start counts as unclean, and the spool is
 * adopted anew. state.db may not be, once there is a journal.db: ERR_STORE.
 */
int store_open(const char *folder, struct store **out);
/* Writes nothing that is not written yet: close journal and inbox before. */
void store_close(struct store *s);
/* From now on the calling thread is the one. The former one must have stopped using it. */
void store_adopt(struct store *s);

/* Was the last life of this state folder ended by store_set_clean(s, true)? */
bool store_was_clean(const struct store *s);
/* Was journal.db lost, and what it said not made anew since? (The mark STORE_ADOPTING was there.) */
bool store_lost_journal(const struct store *s);
/* Is true on disk only when journal.db is synced as well. Set it to false before anything is
 * served (journal_resume does), to true as the last thing of all. */
int store_set_clean(struct store *s, bool clean);
/* What was committed to journal.db so far, mailboxes' states among it, is on disk. Once that has failed it
 * fails as long as the store is open. Any thread. */
int store_sync(struct store *s);

/* ---- values, in state.db ---- */

/* Not 0: the spool is to be adopted before anybody is served (adopt.c). */
#define STORE_ADOPTING "adopting"

/* ERR_NOTFOUND leaves the output alone. Keys are short constant words. */
int store_put_u64(struct store *s, const char *key, uint64_t v);
int store_get_u64(struct store *s, const char *key, uint64_t *v_out);
int store_put_blob(struct store *s, const char *key, const void *p, size_t n);
/* Replaces the contents of out; for text see buf_str. */
int store_get_blob(struct store *s, const char *key, struct buf *out);
int store_del(struct store *s, const char *key);

/* ---- mailboxes as last journaled or applied, in journal.db ----
 *
 * Keyed by directory; a uniqueid may have several. Outside journal_begin/commit each call is a
 * transaction of its own. Pointers in a callback's row live until it returns; it may not call
 * into the store (collect first, then act). A callback's result other than 0 ends the walk and
 * is passed on.
 */
struct store_mbox {
	const char *dir, *uniqueid;
	uint64_t seq; /* of the batch that this state is the end of; 0 if none */
	const void *state; /* encoded mbox_state */
	size_t n;
};
typedef int store_mbox_fn(void *arg, const struct store_mbox *m);

/* Also ends a tombstone of the same (dir, uniqueid). */
int store_mbox_put(struct store *s, const struct store_mbox *m);
/* All with dir > after ("" from the start) in byte order of dir; n > 0 limits the number. */
int store_mbox_walk(
	struct store *s, const char *after, size_t n, store_mbox_fn *fn, void *arg);
/* Forgets the state and leaves a tombstone. ERR_NOTFOUND: there was none, and no tombstone. */
int store_mbox_drop(struct store *s, const char *dir, uint64_t seq);
uint64_t store_mbox_count(struct store *s);

/* A tombstone is of a mailbox that is gone by a journaled removal, and may be deleted where it
 * still is. Was (dir, uniqueid) removed? seq_out may be NULL. ERR_NOTFOUND. */
int store_tomb_get(
	struct store *s, const char *dir, const char *uniqueid, uint64_t *seq_out);
/* Forgets those up to seq. journal_trim does it for what every peer has applied. */
int store_tomb_trim(struct store *s, uint64_t upto);

#endif
