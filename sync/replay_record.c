/*
 * replay_record.c - "applied" is on disk only after the spool is.
 *
 * Mark what is done, sync the spool on a thread of its own, store the mailboxes' states, then
 * record the marked rows as applied. A crash in between leaves rows that are done again.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/replay_priv.h"

#include <stdlib.h>

static void *
recorder_main(void *arg)
{
	struct replay *r = arg;

	uint64_t began = clock_ms();
	r->sync_rc = spool_sync(r->n->spool);
	r->took_ms = clock_ms() - began;
	r->synced = true;
	loop_raise(r->n->loop, &r->ended_call);
	return NULL;
}

/* Mailbox states of this moment; those of later batches may be among them, which a redo after a
 * crash does not mind: it recomputes. Only what changed is looked at: there may be a million. */
static int
store_states(struct replay *r)
{
	struct node *n = r->n;
	struct buf bytes = BUF_INIT;
	size_t count;
	struct mboxent **list = mboxes_take_dirty(n->mboxes, &count);
	int rc = list == NULL ? ERR_NOMEM : journal_begin(n->journal);

	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct mboxent *e = list[i];
		pthread_mutex_lock(&e->lock);
		buf_clear(&bytes);
		if (e->known)
			rc = mboxes_encode(e, &bytes);
		struct store_mbox m = { e->dir, mboxes_id(e), 0, bytes.data,
			bytes.len };
		if (rc == 0 && e->known)
			rc = store_mbox_put(n->store, &m);
		else if (rc == 0 &&
			 (rc = store_mbox_drop(n->store, e->dir, 0)) == ERR_NOTFOUND)
			rc = 0;
		pthread_mutex_unlock(&e->lock);
	}
	if (rc == 0)
		rc = journal_commit(n->journal);
	else if (list != NULL)
		journal_rollback(n->journal);
	/* The rows that made them are never done again once they are recorded. */
	if (rc == 0)
		rc = store_sync(n->store);
	for (size_t i = 0; rc != 0 && i < count; i++) {
		pthread_mutex_lock(&list[i]->lock);
		mboxes_dirty(n->mboxes, list[i]);
		pthread_mutex_unlock(&list[i]->lock);
	}
	free(list);
	buf_fini(&bytes);
	return rc;
}

void
replay_record_finish(struct replay *r)
{
	int rc;

	pthread_join(r->recorder, NULL);
	r->recording = false;
	r->synced = false;
	r->sync_ms = r->took_ms;
	rc = r->sync_rc;
	if (rc == 0)
		rc = store_states(r);
	if (rc == 0)
		rc = inbox_record(r->n->inbox, r->mark);
	if (rc != 0) {
		static _Atomic uint64_t said;
		r->unrecorded = true;
		r->hold_ms = clock_ms() + REPLAY_RECORD_MS;
		if (log_due(&said))
			log_warn("applied batches cannot be recorded yet: %s",
				err_text(rc));
	}
}

void
replay_record_begin(struct replay *r)
{
	if (r->recording || !r->unrecorded)
		return;
	r->mark = inbox_mark(r->n->inbox);
	r->unrecorded = false;
	r->synced = false;
	if (pthread_create(&r->recorder, NULL, recorder_main, r) == 0)
		r->recording = true;
	else
		r->unrecorded = true;
}

void
replay_record_now(struct replay *r)
{
	r->mark = inbox_mark(r->n->inbox);
	if (spool_sync(r->n->spool) == 0 && store_states(r) == 0)
		inbox_record(r->n->inbox, r->mark);
}
