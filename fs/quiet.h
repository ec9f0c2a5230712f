/*
 * quiet.h - paths outside any mailbox that changed and travel once they have been quiet.
 *
 * Closes are not seen (design 3.3), so a file that is being written is handed to replication when
 * nothing was written for QUIET_MS, or QUIET_MAX_MS after the first change if it never rests.
 * What waits when a folder is moved is handed on under its new name.
 *
 * Threads  any.
 */
#ifndef FS_QUIET_H
#define FS_QUIET_H

#include <stdbool.h>
#include <stdint.h>

struct sync;

enum { QUIET_MS = 200, QUIET_MAX_MS = 5000 };

int quiet_start(struct sync *sync);
/* Hands on everything that is left. */
void quiet_stop(void);

/* path, which was found with the ticket names (sync_names), changed. now: it is complete (renamed
 * into place, synced): do not wait. False: a move came in between, find the path again. */
bool quiet_changed(const char *path, uint64_t names, bool now);
/* path may have changed; whatever it is then is looked at once it has been quiet. */
void quiet_look(const char *path);
/* Everything that waits is handed on now. */
void quiet_flush(void);
/* What waits in or below from waits under its new name; swap: and the other way round. Between
 * sync_move_begin and _end. */
void quiet_moved(const char *from, const char *to, bool swap);

#endif
