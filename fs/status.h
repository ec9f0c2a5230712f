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

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum sync_role { SYNC_STANDBY, SYNC_ACTIVE };
enum { SYNC_PEERS_MAX = 16, SYNC_NAME_MAX = 64 };

struct sync_position {
	uint64_t epoch, run, seq;
};

struct sync_peer_facts {
	char name[SYNC_NAME_MAX];
	char address[300];
	char state[32]; /* streaming, comparing, behind, connecting, refused... */
	char error[300]; /* last, "" if none */
	uint64_t sent, received, flushed, applied;
	uint64_t lag_ms; /* age of the oldest batch it has not applied */
	uint64_t lag_seqs;
	bool connected;
	/* catch-up, 0 when none runs */
	uint64_t mailboxes_done, mailboxes_total, messages_done, messages_total,
		bytes_done;
	uint64_t bytes_per_s, left_s;
	uint64_t wire_sent, wire_got, raw_sent, raw_got;
};

struct sync_quarantine_facts {
	char dir[300];
	uint32_t uid;
	char check[32];
	char text[200];
	uint64_t since; /* wall ns */
};

struct sync_facts {
	enum sync_role role;
	struct sync_position position; /* of the last batch in our journal */
	uint64_t journal_first, journal_bytes;
	uint64_t queued; /* handed in, not yet journaled */
	uint64_t mailboxes;
	uint64_t batches, bodies, body_bytes; /* sent since the start */
	uint64_t applied_batches, replay_pending;
	uint64_t held_run, held_received,
		held_applied; /* a standby: of the active's journal */
	char stalled[200]; /* why nothing is applied at the moment, "" if it is */
	unsigned n_peers;
	struct sync_peer_facts peers[SYNC_PEERS_MAX];
	unsigned n_quarantined;
	unsigned n_listed; /* how many of them are below */
	struct sync_quarantine_facts quarantined[64];
};

struct status_facts {
	const char *name, *mountpoint, *spool;
	const char *gate; /* "open", "draining", "shut", "standby" */
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

/* text as a JSON string with its quotes. */
void status_quote(struct buf *out, const char *text);

#endif
