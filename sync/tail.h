/*
 * tail.h - the last rows of a table in memory: what is wanted as soon as it is stored need not be read
 * from the file.
 *
 * Copies, for journal.c and inbox.c alone, who see to it that they are what the file has: what is
 * rolled back is cut. A row that is not here is no row that is not there.
 *
 * Owns     64 rows of 16 KB at most.
 * Threads  one at a time.
 */
#ifndef SYNC_TAIL_H
#define SYNC_TAIL_H

#include "sync/pos.h"

#include <stddef.h>
#include <stdint.h>

struct tail;

struct tail_row {
	uint64_t key; /* not 0 */
	struct pos pos;
	uint64_t time;
	const char *dir;
	const void *bytes;
	size_t n;
};

int tail_open(struct tail **out);
void tail_close(struct tail *t);
/* A row whose key is the highest. Where memory is short, or it is a large one, it is left out. */
void tail_put(struct tail *t, const struct tail_row *row);
/* Forgets every row above key. */
void tail_cut(struct tail *t, uint64_t key);
/* The row of that key, good until the next put or cut; NULL if it is not here. */
const struct tail_row *tail_find(const struct tail *t, uint64_t key);

#endif
