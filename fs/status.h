/*
 * status.h - what a slot shows of itself: as text, JSON and Prometheus metrics.
 *
 * Pure: one struct of facts in, bytes out. The JSON is one line and valid for any name in the
 * facts (bytes that are no UTF-8 become U+FFFD); its keys are an interface, see twinspool(8).
 * Threads: any.
 */
#ifndef FS_STATUS_H
#define FS_STATUS_H

#include "meta/base/buf.h"
#include "sync/sync.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct status_facts {
	const char *name, *mountpoint, *spool;
	/* "open", "draining", "shut", "standby", "refusing", "stale" */
	const char *gate;
	const char *transport; /* how requests come: "dev", "uring" */
	pid_t supervisor, server;
	uint64_t started; /* wall clock of the first server, ns */
	uint64_t now; /* wall clock, ns */
	uint64_t restarts; /* servers that died */
	bool clean; /* the state is marked clean: nothing to derive at the next start */
	const struct sync_facts *sync;
};

void status_text(const struct status_facts *f, struct buf *out);
void status_json(const struct status_facts *f, struct buf *out);
void status_metrics(const struct status_facts *f, struct buf *out);

/* Only the peers, or only what is quarantined, as text; for .twinspool/peers and the like. */
void status_peers(const struct status_facts *f, struct buf *out);
void status_quarantine(const struct status_facts *f, struct buf *out);

#endif
