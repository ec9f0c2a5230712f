/*
 * kept.h - bodies that were unlinked while a peer may still need them: .twinspool/kept/.
 *
 * Threads  add: any. release: the peer thread.
 */
#ifndef SYNC_KEPT_H
#define SYNC_KEPT_H

#include "meta/base/hash.h"

#include <stdint.h>

struct kept;
struct spool;

/* What is there from an earlier life is released once seq is confirmed. */
int kept_open(struct spool *sp, uint64_t seq, struct kept **out);
void kept_close(struct kept *k);
/* Links dir/name there until seq is confirmed by every peer. 0 or the spool's error. */
int kept_add(struct kept *k, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name, uint64_t seq);
/* Drops what was kept up to the confirmed seq. */
void kept_release(struct kept *k, uint64_t confirmed);

#endif
