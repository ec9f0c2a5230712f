/*
 * journal_look.h - the rows of a journal.db as somebody sees them who has no part in the slot: for
 * `twinspool dump`. A server may be running, or none, or the file is a copy.
 *
 * Nothing is written, and no lock is held that a server waits for. A piece at a time is read, so
 * that between two pieces the log can be moved into the file.
 *
 * Threads  the one that opened it.
 * Errors   ERR_NOTFOUND; ERR_FOREIGN: no journal; ERR_VERSION: of another version; ERR_STORE:
 *          damaged, or cannot be read; ERR_BUSY: a server was started meanwhile on a file that
 *          none used when it was opened, so what was read may be torn: again. Said in the log.
 */
#ifndef SYNC_JOURNAL_LOOK_H
#define SYNC_JOURNAL_LOOK_H

#include "sync/journal.h"

struct journal_look;

int journal_look_open(const char *path, struct journal_look **out);
void journal_look_close(struct journal_look *l);

/*
 * The next rows, in order, up to the last one there was at the open: 1, 0 behind it, or an error.
 * damage: 0, or why the row as a row cannot be believed (its bytes are to be judged by
 * batch_decode). The callback's strings live until it returns; a result other than 0 ends the
 * walk and is passed on.
 */
typedef int journal_look_fn(void *arg, const struct journal_row *row, int damage);
int journal_look_next(struct journal_look *l, journal_look_fn *fn, void *arg);

#endif
