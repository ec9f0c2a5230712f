/*
 * journal_peer.h - the table of peers' cursors behind journal.h's journal_peer_* calls. Only
 * journal.c and journal_peer.c include this. Threads and errors as in journal.h.
 */
#ifndef SYNC_JOURNAL_PEER_H
#define SYNC_JOURNAL_PEER_H

#include "sync/journal.h"

struct journal_peers;

int journal_peer_open(struct store *s, struct journal_peers **out);
void journal_peer_close(struct journal_peers *t);
/* The journal's table. */
struct journal_peers *journal_peer_of(struct journal *j);
/* Writes changed numbers; unless now, only if the last time is some seconds ago. */
int journal_peer_save(struct journal_peers *t, bool now);
/* Does the journal keep rows for it? */
bool journal_peer_holds(const struct journal_peer *p);

#endif
