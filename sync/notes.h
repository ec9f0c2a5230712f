/*
 * notes.h - paths to look at after a crash: a note is on disk before the name changes, and is
 * taken back once the change is journaled (design 4).
 *
 * Owns     the file "notes" in the state folder.
 * Threads  any; concurrent notes_add calls share a sync. No lock is held while it runs.
 * Errors   ERR_FULL, ERR_IO, ERR_NOMEM, ERR_LIMIT (path over NOTES_MAX_PATH): nothing is noted.
 */
#ifndef SYNC_NOTES_H
#define SYNC_NOTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NOTES_MAX_PATH = 4096 };

struct notes;

/* Reads what an earlier life left. A torn end is normal; other damage is logged and skipped. */
int notes_open(const char *folder, struct notes **out);
/* No other call may be running. */
void notes_close(struct notes *n);

/* Returns when the note is on disk. A path may be noted several times; each counts. */
int notes_add(struct notes *n, const char *path);
/* The same for a path whose name may be gone afterwards. Only of such a path does it mean something
 * that it is not there; any other may have been lost in the crash. */
int notes_add_leaving(struct notes *n, const char *path);
bool notes_is_leaving(struct notes *n, const char *path);
/* Each path noted strictly below from is noted below to as well: a folder is about to get another
 * name, and what is noted in it will be found there. On disk when this returns. */
int notes_copy(struct notes *n, const char *from, const char *to);
/* Takes one back; not written before the next one, or notes_flush, for a note too many costs one
 * look. Unknown paths are ignored. */
void notes_clear(struct notes *n, const char *path);
/* Writes what was taken back; a failure is logged, and costs that look. */
void notes_flush(struct notes *n);

/* Each path noted now, once, in no order. The callback works without a lock and may add and
 * clear. Its result other than 0 ends the walk and is passed on. */
typedef int notes_fn(void *arg, const char *path);
int notes_walk(struct notes *n, notes_fn *fn, void *arg);
size_t notes_count(struct notes *n);
/*
 * For a batch: mark what is noted of the path, look at the path, and settle the mark once the batch
 * is journaled, and the journal synced (settled.h). Settled is what was noted up to the mark, unless the path was noted again since: that
 * note speaks of what the batch may not have seen. Any number of batches may hold the same mark.
 * 0: nothing is noted.
 */
uint64_t notes_mark(struct notes *n, const char *path);
void notes_settle(struct notes *n, const char *path, uint64_t mark);

#endif
