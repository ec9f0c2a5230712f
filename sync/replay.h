/*
 * replay.h - the only way a peer's batch reaches this spool.
 *
 * Rows of the inbox are applied by workers: in order within a mailbox, mailboxes in parallel. A
 * row that removes something (design 7), renames, or is about a path waits until every row
 * before it is settled. What cannot be applied is repaired, set aside or tried again, as the
 * error's consequence says.
 *
 * Threads  the peer thread; workers are inside. replay_close joins them.
 */
#ifndef SYNC_REPLAY_H
#define SYNC_REPLAY_H

#include "meta/base/hash.h"
#include "sync/pos.h"

#include <stdbool.h>
#include <stdint.h>

struct node;
struct replay;

/* redo: rows found in the inbox now are from before a crash. */
int replay_open(struct node *n, unsigned workers, bool redo, struct replay **out);
/* Lets running jobs end; the rest stays in the inbox. Syncs and records what was done. */
/* False if rows that must be done again after a crash were not all done, or what was done is not recorded:
 * then the next start has to do them so, however clean this stop is. */
bool replay_close(struct replay *r);

/* New rows are in the inbox. */
void replay_more(struct replay *r);
/* The inbox began anew, all that it had is recorded: its next rows may have lower positions. */
void replay_rebased(struct replay *r);
/* A body has been staged (or will not come: then its mailbox is set aside). */
void replay_body(struct replay *r, const uint8_t guid[SHA1_LEN], bool came);
/* Bodies asked for and not yet there are asked for again: the session is a new one. */
void replay_ask_again(struct replay *r);
/* Due work: what was stalled, and recording what is applied after a sync of the spool. */
void replay_tick(struct replay *r);
/* The rows of dir that wait are HELD in the inbox by now: they are not for replay any more. */
void replay_forget(struct replay *r, const char *dir);
/* Nothing waits or runs. */
bool replay_idle(const struct replay *r);
/* Is a worker at it? Its end turns the loop. */
bool replay_busy(const struct replay *r);

struct replay_facts {
	uint64_t waiting, applied;
	const char *stalled; /* "" if not */
};
void replay_facts(const struct replay *r, struct replay_facts *out);

#endif
