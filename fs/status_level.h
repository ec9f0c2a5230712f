/*
 * status_level.h - the part of status about durability: who waits for the peers, and whether
 * anybody still does. As status.h; for status.c.
 */
#ifndef FS_STATUS_LEVEL_H
#define FS_STATUS_LEVEL_H

#include "meta/base/buf.h"
#include "sync/sync.h"

/* A line, or nothing while every level is local. now: wall clock, ns. */
void status_level_text(const struct sync_level_facts *f, uint64_t now, struct buf *out);
/* ,"durability":{...} */
void status_level_json(const struct sync_level_facts *f, struct buf *out);
/* Metrics with slot as the value of their label, quoted already. */
void status_level_metrics(
	const struct sync_level_facts *f, const char *slot, struct buf *out);

#endif
