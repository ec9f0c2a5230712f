/*
 * moves.h - where folders went: rows of the journal name a mailbox as it was called then, and
 * their bodies are found under the name that it has now.
 *
 * Threads  any.
 * Errors   ERR_NOMEM: the move is not known, and what it concerns is compared instead.
 */
#ifndef SYNC_MOVES_H
#define SYNC_MOVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moves;

int moves_open(struct moves **out);
void moves_close(struct moves *m);

/* Rows up to seq may speak of from, and of what is below it, by that name. In order of seq. */
int moves_add(struct moves *m, uint64_t seq, const char *from, const char *to);
/* Every peer has the rows up to seq: what only they need is forgotten. */
void moves_release(struct moves *m, uint64_t seq);
/* The name that path of row seq has by now. False: it was not moved since, or is too long. */
bool moves_now(struct moves *m, uint64_t seq, const char *path, char *out, size_t size);

#endif
