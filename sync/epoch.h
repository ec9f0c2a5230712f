/*
 * epoch.h - the history of who wrote, and what two histories say about each other.
 *
 * A line is a list of entries, one per epoch, each with the position of the line before at which
 * it began. Entries carry a random mark, so that two nodes that each began an epoch 2 are told
 * apart, as are two lives of a node that lost its state.
 *
 * Threads  compare, encode, decode: pure, any. The others: that of the store; what they return
 *          with 0 is synced before it may be believed.
 */
#ifndef SYNC_EPOCH_H
#define SYNC_EPOCH_H

#include "sync/pos.h"
#include "sync/store.h"

enum { EPOCH_HISTORY_MAX = 64, EPOCH_NODE_MAX = 64, EPOCH_BYTES_MAX = 64 * 128 };

struct epoch_entry {
	uint64_t epoch; /* from 1, rising */
	uint64_t mark; /* drawn at random when it began */
	struct pos base; /* last position of the line before that it contains */
	char node[EPOCH_NODE_MAX]; /* who was active in it */
};

/* Oldest first; only the last EPOCH_HISTORY_MAX are kept. No entry: never had an active. */
struct epoch_line {
	unsigned n;
	struct epoch_entry e[EPOCH_HISTORY_MAX];
};

enum epoch_relation {
	EPOCH_SAME, /* the same epochs, the same last position */
	EPOCH_BEHIND, /* theirs continues ours: we lack something, they lack nothing */
	EPOCH_AHEAD, /* ours continues theirs */
	EPOCH_FORKED, /* both have what the other lacks */
	EPOCH_UNRELATED /* not one epoch in common */
};
const char *epoch_relation_text(enum epoch_relation r);

/*
 * Where two nodes stand: their lines and the last position each holds (an active one: of its
 * journal; a standby: received). fork_out (may be NULL): the last position that both lines
 * contain. Within one epoch this trusts positions; whether a run reaches beyond what the writer
 * still has is journal_judge's question.
 */
enum epoch_relation epoch_compare(const struct epoch_line *ours, struct pos our_last,
	const struct epoch_line *theirs, struct pos their_last, struct pos *fork_out);

/* The current epoch of a line, 0 if it is empty. */
uint64_t epoch_current(const struct epoch_line *l);

/* For the wire and the store. Decode is strict: ERR_MANGLED, ERR_VERSION. */
int epoch_encode(const struct epoch_line *l, struct buf *out);
int epoch_decode(const void *p, size_t n, struct epoch_line *out);

enum epoch_role { EPOCH_STANDBY, EPOCH_ACTIVE };

struct epoch {
	enum epoch_role role;
	struct epoch_line line;
};

/* What is stored; ERR_NOTFOUND at the very first start. */
int epoch_load(struct store *s, struct epoch *out);
/* The first start: an active one begins epoch 1, a standby has an empty line. */
int
epoch_found(struct store *s, enum epoch_role role, const char *node, struct epoch *out);
/* Promotion: this node becomes active in a new epoch above min_epoch (0, or the highest seen),
 * which contains its line up to base. e is changed only when it is stored. */
int epoch_raise(struct store *s, struct epoch *e, const char *node, struct pos base,
	uint64_t min_epoch);
/* This node becomes (or stays) a standby on the given line. */
int epoch_follow(struct store *s, struct epoch *e, const struct epoch_line *line);

#endif
