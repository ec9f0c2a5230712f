/*
 * settled.h - notes whose batch is journaled: they are taken back once the journal is on disk.
 *
 * An append to the journal is not synced (design 4). Were a note taken back at once, a power cut
 * could take the batch and leave no sign of where to look for it.
 *
 * Threads  the peer thread. A sync has a thread of its own, so that nothing waits for it.
 */
#ifndef SYNC_SETTLED_H
#define SYNC_SETTLED_H

#include "sync/notes.h"
#include "sync/store.h"

#include <stdbool.h>

struct settled;

int settled_open(struct notes *notes, struct store *store, struct settled **out);
/* The batch that is about path, noted up to mark (notes_settle), is in the journal. Takes path. */
void settled_add(struct settled *s, char *path, uint64_t mark);
/* Often: takes back what is on disk by now, and begins a sync when one is due. */
void settled_tick(struct settled *s);
/* synced: the journal is on disk as it is now; else what waits stays noted. NULL is allowed. */
void settled_close(struct settled *s, bool synced);

#endif
