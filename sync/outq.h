/*
 * outq.h - batches on their way from capture to the journal, in the order of their commits.
 *
 * Threads  push: any. take: the peer thread.
 */
#ifndef SYNC_OUTQ_H
#define SYNC_OUTQ_H

#include "meta/base/buf.h"
#include "sync/sync.h"

#include <stdbool.h>
#include <stdint.h>

struct outq;

enum outq_state { OUTQ_STATE_PUT, OUTQ_STATE_DROP, OUTQ_STATE_NONE };

struct outq_item {
	struct outq_item *next;
	char *key; /* entry of the mailbox table: directory, or "/path" */
	char *note; /* a path to take back from the notes, or NULL */
	uint64_t noted; /* the mark up to which they are */
	char uniqueid[64];
	struct buf bytes; /* the encoded batch; empty: nothing to journal */
	enum outq_state what; /* what becomes of the stored state */
	struct buf state;
	bool aside; /* the mailbox was set aside: fault says why */
	struct mbox_fault fault;
	sync_done_fn *done;
	void *done_arg;
};

/* The call is raised whenever the queue was empty before a push. */
struct loop;
struct loop_call;
int outq_open(struct loop *loop, struct loop_call *wake, struct outq **out);
void outq_close(struct outq *q);

/* A zeroed item with a copy of key; NULL when memory is short. */
struct outq_item *outq_item(const char *key);
void outq_item_free(struct outq_item *it);
/* Takes the item. Returns its ticket: 1, 2, 3... */
uint64_t outq_push(struct outq *q, struct outq_item *it);
/* Everything queued, oldest first, or NULL. */
struct outq_item *outq_take(struct outq *q);
/* The ticket of the last push; and the last whose done ran, as told by outq_settled. */
uint64_t outq_last(struct outq *q);
void outq_settled(struct outq *q, uint64_t upto);
uint64_t outq_settled_upto(struct outq *q);

#endif
