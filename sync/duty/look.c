/*
 * look.c - what is looked at now and then: mailboxes that were set aside and may have been healed by
 * hand, and bodies that a standby keeps for nobody any more.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/bodies.h"
#include "meta/spool.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <stdlib.h>

enum { LOOK_ASIDE_MS = 5000, LOOK_KEPT_MS = 60000 };

/* What a standby kept while rows that may name it were not applied: it goes once there are no such
 * rows, and has been there for as long as a peer's journal is kept. What a comparison took from a
 * mailbox lies there as well, and is to be found that long. */
static void
look_kept(struct node *n)
{
	uint64_t age = n->conf.journal_age, now = clock_ms();

	if (n->role != SYNC_STANDBY || age == 0 || now < n->next_kept_ms)
		return;
	n->next_kept_ms = now + (age / 8 < LOOK_KEPT_MS ? age / 8 : LOOK_KEPT_MS);
	if (ask_keeps(n) || !replay_idle(n->replay))
		return;
	unsigned gone = kept_expire(n->spool, age);
	if (gone > 0)
		log_info("bodies kept for nobody any more are gone: count=%u", gone);
}

/* A mailbox that was set aside here and that somebody has taken away since: the cure. It is
 * fetched anew. */
static void
look_removed(struct node *n, struct mboxent *e)
{
	struct inbox_facts f;
	struct stat st;

	pthread_mutex_lock(&e->lock);
	bool gone = e->aside && e->known && !mboxes_is_path(e->dir) &&
		    spool_stat(n->spool, e->dir, NULL, &st) == ERR_NOTFOUND;
	if (gone)
		e->aside = e->known = e->has_more = false;
	if (gone) {
		mboxes_dirty(n->mboxes, e);
		mboxes_identify(n->mboxes, e);
	}
	pthread_mutex_unlock(&e->lock);
	if (!gone)
		return;
	log_info("mailbox that was set aside is gone, it is fetched anew: dir=%s",
		e->dir);
	/* Its rows are dropped: what they named is kept until they are stated again. */
	inbox_facts(n->inbox, &f);
	ask_open(n, e, f.done.seq + 1);
	ask_anew(n, e->dir);
	inbox_quarantine_release(n->inbox, e->dir, false);
	node_count_asides(n);
}

/* It is sound again. What was withheld of it nobody will say any more, so it is stated by its sum: a
 * peer that does not have that, now or when it comes back, asks for the mailbox. Entry lock held. */
static int
state_sum(struct node *n, struct mboxent *e, const struct mbox_state *now)
{
	struct mbox_state old = *e->state;
	bool known = e->known;
	struct batch b;

	batch_init(&b);
	b.flags = BATCH_DERIVED;
	b.dir = e->dir;
	b.uniqueid = now->uniqueid;
	b.after = mbox_sum_total(&now->sum);
	*e->state = *now;
	e->known = true;
	e->aside = false;
	int rc = node_enqueue(n, e, &b, 0, NULL, NULL);
	if (rc != 0) {
		*e->state = old;
		e->known = known;
		e->aside = true;
	}
	b.dir = b.uniqueid = "";
	batch_fini(&b);
	return rc;
}

/* A mailbox that was set aside is looked at now and then: healed by hand, it needs no command. */
static void
look_aside(struct node *n)
{
	size_t count;
	struct mboxent **list;

	if (clock_ms() < n->next_look_ms)
		return;
	n->next_look_ms = clock_ms() + LOOK_ASIDE_MS;
	if (inbox_quarantine_count(n->inbox) == 0 ||
		(list = mboxes_list(n->mboxes, &count)) == NULL)
		return;
	for (size_t i = 0; i < count; i++) {
		struct mboxent *e = list[i];
		struct mbox_fault fault = { 0 };
		struct mbox_state now;
		if (!e->aside || mboxes_is_path(e->dir))
			continue;
		if (n->role == SYNC_STANDBY) {
			look_removed(n, e);
			continue;
		}
		pthread_mutex_lock(&e->lock);
		/* All files named by the index are there again, with their sizes; and no commit
		 * was faster. */
		if (e->aside &&
			mbox_load(n->spool, e->dir, e->known ? e->state : NULL, &now,
				&fault) == 0 &&
			bodies_check(n->spool, e->dir, &fault) == 0 &&
			state_sum(n, e, &now) == 0)
			log_info("mailbox is sound again: dir=%s", e->dir);
		pthread_mutex_unlock(&e->lock);
	}
	free(list);
}

void
look_tick(struct node *n)
{
	look_aside(n);
	look_kept(n);
}
