/*
 * status_priv.h - what the renderers of status.h share: status.c (text), status_json.c,
 * status_metrics.c, and status_level.c, which does all three for durability: who waits for the peers,
 * and whether anybody still does. For these only.
 */
#ifndef FS_STATUS_PRIV_H
#define FS_STATUS_PRIV_H

#include "meta/base/buf.h"
#include "sync/sync.h"

const char *status_role(enum sync_role role);
/* Is it being brought to our state? */
bool status_catching_up(const struct sync_peer_facts *p);

/* A line, or nothing while every level is local. now: wall clock, ns. */
void status_level_text(const struct sync_level_facts *f, uint64_t now, struct buf *out);
/* The member "durability". */
void status_level_json(const struct sync_level_facts *f, struct buf *out);
/* Metrics with slot as the value of their label, quoted already. */
void status_level_metrics(
	const struct sync_level_facts *f, const char *slot, struct buf *out);

#endif
