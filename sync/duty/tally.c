/*
 * tally.c - what is sent to a peer, by kind of change: for the metrics, nothing depends on it.
 *
 * The bytes of a batch are shared in equal parts by what it says. Nearly always that is one kind;
 * where it is not, no more is claimed than that they came together.
 */
#include "meta/batch.h"
#include "sync/node.h"

static void
weigh_change(const struct change *c, uint64_t of[SYNC_CHANGES])
{
	switch (c->kind) {
	case CHANGE_RECORD:
		if (c->u.record.append)
			of[SYNC_CHANGE_APPEND]++;
		else if ((c->u.record.mask & CHANGE_RECORD_FLAGS) != 0 &&
			 (c->u.record.r.flags &
				 (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)) != 0)
			of[SYNC_CHANGE_EXPUNGE]++;
		else
			of[SYNC_CHANGE_FLAGS]++;
		break;
	case CHANGE_PURGE:
		of[SYNC_CHANGE_EXPUNGE]++;
		break;
	case CHANGE_ANNOTS:
		of[SYNC_CHANGE_ANNOTATION]++;
		break;
	case CHANGE_FILE:
	case CHANGE_DIR:
	case CHANGE_SYMLINK:
	case CHANGE_NODE:
	case CHANGE_DELETE:
		of[SYNC_CHANGE_FILE]++;
		break;
	case CHANGE_MOVE:
	case CHANGE_SWAP:
		of[SYNC_CHANGE_RENAME]++;
		break;
	case CHANGE_HEADER:
	case CHANGE_NAMES:
	case CHANGE_OWNER:
	case CHANGE_BODY:
		break; /* these go with the others; see below */
	}
}

/* How many changes of each kind it states. */
static uint64_t
weigh(const struct batch *b, uint64_t of[SYNC_CHANGES])
{
	uint64_t all = 0;
	bool header = false;

	/* All the rest of these follows from it. */
	if (b->from_dir != NULL || (b->flags & BATCH_REMOVE) != 0) {
		of[b->from_dir != NULL ? SYNC_CHANGE_RENAME : SYNC_CHANGE_REMOVE] = 1;
		return 1;
	}
	if ((b->flags & BATCH_CREATE) != 0)
		of[SYNC_CHANGE_CREATE] = 1;
	for (size_t i = 0; i < b->n; i++) {
		weigh_change(&b->changes[i], of);
		header |= b->changes[i].kind == CHANGE_NAMES ||
			  b->changes[i].kind == CHANGE_OWNER;
	}
	for (unsigned k = 0; k < SYNC_CHANGES; k++)
		all += of[k];
	if (all > 0 || b->n == 0)
		return all;
	/* A mailbox that has nothing is stated whole when it comes. */
	of[(b->flags & BATCH_WHOLE) != 0 ? SYNC_CHANGE_CREATE
		: header                 ? SYNC_CHANGE_HEADER
					 : SYNC_CHANGE_COUNTS] = 1;
	return 1;
}

void
tally_row(struct peer *p)
{
	uint64_t of[SYNC_CHANGES] = { 0 }, all = weigh(&p->batch, of);

	for (unsigned k = 0; k < SYNC_CHANGES; k++)
		if (of[k] != 0)
			session_book(p->session, k, of[k], p->row.len * of[k] / all);
}

void
tally_body(struct peer *p, size_t bytes, bool whole)
{
	session_book(p->session, SYNC_CHANGE_BODY, whole, bytes);
}

void
tally_facts(const struct session_stats *stats, struct sync_peer_facts *pf)
{
	_Static_assert(SYNC_CHANGES <= (int)SESSION_BOOKS, "a book for each kind");
	uint64_t rest = stats->wire_sent;

	for (unsigned k = 0; k < SYNC_CHANGES; k++) {
		pf->sent_changes[k] = (struct sync_change_facts){ stats->books[k].n,
			stats->books[k].bytes };
		/* What is deflated may not have left yet. */
		rest -= rest < stats->books[k].bytes ? rest : stats->books[k].bytes;
	}
	pf->sent_other = rest;
}
