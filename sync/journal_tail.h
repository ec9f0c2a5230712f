/*
 * journal_tail.h - the last rows of the journal in memory: what is sent as soon as it is journaled need
 * not be read from the file.
 *
 * Copies, for journal.c alone, which sees to it that they are what the file has: what is rolled back is
 * cut. A row that is not here is no row that is not there.
 *
 * Owns     64 rows of 16 KB at most.
 * Threads  the journal's.
 */
#ifndef SYNC_JOURNAL_TAIL_H
#define SYNC_JOURNAL_TAIL_H

#include "sync/journal.h"

struct journal_tail;

int journal_tail_open(struct journal_tail **out);
void journal_tail_close(struct journal_tail *t);
/* The next row. Where memory is short, or it is a large one, it is left out. */
void journal_tail_put(struct journal_tail *t, const struct journal_row *row);
/* Forgets every row above seq. */
void journal_tail_cut(struct journal_tail *t, uint64_t seq);
/* The row of that seq, good until the next put or cut; NULL if it is not here. */
const struct journal_row *journal_tail_find(const struct journal_tail *t, uint64_t seq);

#endif
