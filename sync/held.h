/*
 * held.h - small bodies that arrived and verified, in memory until replay puts them in place.
 *
 * A body comes just before the batch that names it, so most need no file in staging: replay
 * writes them where they belong, on its own threads. After a crash a batch in the inbox whose
 * body was only here asks the peer for it again; the peer keeps it until the batch is confirmed.
 *
 * Threads  any. Bounded: the oldest go to staging when there are too many bytes.
 */
#ifndef SYNC_HELD_H
#define SYNC_HELD_H

#include "meta/base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HELD_MAX_BODY = 256 << 10, HELD_MAX = 32 << 20, HELD_FULL = 24 << 20 };

struct held;
struct spool;
struct spool_place;

int held_open(struct spool *sp, struct held **out);
void held_close(struct held *h);

/* Takes a body whose GUID was checked; bytes are malloc'd and owned by h afterwards, also on
 * failure. */
int held_put(struct held *h, const uint8_t guid[SHA1_LEN], uint8_t *bytes, size_t n);
/* More than HELD_FULL bytes: what is still to come should wait, if it can. */
bool held_full(struct held *h);
/* Puts it in its place, whole: from memory, else from staging. ERR_NOTFOUND if it is in neither;
 * ERR_EXISTS and whatever else goes wrong: it is still here. */
int
held_place(struct held *h, const uint8_t guid[SHA1_LEN], const struct spool_place *to);
/* Forgets it: it is in its place already. */
void held_drop(struct held *h, const uint8_t guid[SHA1_LEN]);

#endif
