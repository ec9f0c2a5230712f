/*
 * moving.h - folders that are being moved just now, against everybody who goes from a path to a
 * row of the journal.
 *
 * Whoever finds a path, looks at what is there and states it, does long work in between; a move
 * may not wait for that. So nobody holds a lock over it: the path is found with a ticket in hand,
 * and when the row is queued (moving_enter .. moving_leave, short) the ticket says whether a move
 * came across that path meanwhile. If so the work is done again under the new name.
 *
 *     ticket = moving_ticket(m);   find the path;   look;
 *     if (!moving_enter(m, ticket, path)) { moving_wait(m, path); again }
 *     queue the row;   moving_leave(m);
 *
 * Threads  any. The mover: moving_begin before the names change, moving_end after its own row is
 *          queued; between them only rows of other folders are queued.
 * Locks    moving_wait may be called with none that a mover takes: no entry's, no queue's.
 */
#ifndef SYNC_MOVING_H
#define SYNC_MOVING_H

#include <stdbool.h>
#include <stdint.h>

struct moving;
struct moving_one;

int moving_open(struct moving **out);
void moving_close(struct moving *m);

/* Never 0. */
uint64_t moving_ticket(struct moving *m);
/* Has path kept its meaning since the ticket? True holds moves back until moving_leave. */
bool moving_enter(struct moving *m, uint64_t ticket, const char *path);
void moving_leave(struct moving *m);
/* Until no move is under way that path lies in. */
void moving_wait(struct moving *m, const char *path);

/* Both names were found with the ticket. ERR_NOTFOUND: not valid any more, after a wait; find
 * them again. ERR_NOMEM. */
int moving_begin(struct moving *m, uint64_t ticket, const char *from, const char *to,
	struct moving_one **out);
void moving_end(struct moving *m, struct moving_one *one);
const char *moving_from(const struct moving_one *one);
const char *moving_to(const struct moving_one *one);

#endif
