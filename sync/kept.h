/*
 * kept.h - bodies that were unlinked while somebody may still need them: .twinspool/kept/.
 *
 * On an active side a body is kept for peers that have not confirmed the batch that names it; what
 * is kept is known by the seq that must be confirmed. On a standby replay itself links bodies
 * there (spool_keep), and what may go is known by its age alone.
 *
 * Threads  add: any. The others: the peer thread.
 */
#ifndef SYNC_KEPT_H
#define SYNC_KEPT_H

#include "meta/base/hash.h"

#include <stdint.h>

struct kept;
struct spool;

enum { KEPT_AT_ONCE = 512 }; /* bodies that one release drops at most */

/* Of an active side. What is there from an earlier life is released once seq is confirmed. */
int kept_open(struct spool *sp, uint64_t seq, struct kept **out);
void kept_close(struct kept *k);
/* Links dir/name there until seq is confirmed by every peer. 0 or the spool's error. */
int kept_add(struct kept *k, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name, uint64_t seq);
/* Drops what was kept up to the confirmed seq, the oldest first and not all at once, for requests may
 * want to add meanwhile. Returns how many went. k may be NULL. */
unsigned kept_release(struct kept *k, uint64_t confirmed);
/* A seq may be more than there is to come of it: rows that were queued and came to nothing. So take a
 * mark, find that nothing is queued, and clamp: what was added before the mark waits for seq, the
 * last of the journal, at most. k may be NULL. */
uint64_t kept_mark(struct kept *k);
void kept_clamp(struct kept *k, uint64_t mark, uint64_t seq);
/* How many entries have been looked at since the open, for whoever counts. */
uint64_t kept_looks(const struct kept *k);

/* Of a standby: drops what has been there for age_ms. Returns how many went. */
unsigned kept_expire(struct spool *sp, uint64_t age_ms);

#endif
