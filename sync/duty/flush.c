/*
 * flush.c - a standby's disk, for an active side that waits for `flushed` or `applied`.
 *
 * What arrived in a turn, small bodies and rows, goes into the log of arrivals with one sync; that
 * is confirmed before anything else is done. Then the rows enter the inbox without a sync, and
 * replay begins: so nothing is replayed that a power cut could take from the log. Large bodies are
 * synced where they are staged. While nobody wants it none of this is done: then rows are synced
 * in the inbox, and their bodies are asked for again after a crash.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/arrivals.h"
#include "sync/node.h"

#include <stdlib.h>
#include <string.h>

/* ---- at the start ---- */

struct left {
	struct node *n;
	struct inbox_item *rows; /* not in the inbox */
	struct buf *bytes;
	size_t n_rows, cap;
	struct pos *seen; /* of all rows found */
	size_t n_seen, cap_seen;
	struct pos received;
	uint8_t (*staged)[SHA1_LEN]; /* synced ones, sorted */
	size_t n_staged, cap_staged;
};

static int
left_staged(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct left *l = arg;

	if (l->n_staged == l->cap_staged) {
		size_t cap = l->cap_staged ? l->cap_staged * 2 : 16;
		uint8_t(*more)[SHA1_LEN] = realloc(l->staged, cap * SHA1_LEN);
		if (more == NULL)
			return ERR_NOMEM;
		l->staged = more;
		l->cap_staged = cap;
	}
	memcpy(l->staged[l->n_staged++], guid, SHA1_LEN);
	return 0;
}

static int
by_guid(const void *a, const void *b)
{
	return memcmp(a, b, SHA1_LEN);
}

static bool
was_synced(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct left *l = arg;

	return l->n_staged > 0 &&
	       bsearch(guid, l->staged, l->n_staged, SHA1_LEN, by_guid) != NULL;
}

static int
left_body(void *arg, const uint8_t guid[SHA1_LEN], const void *p, size_t n)
{
	struct left *l = arg;
	uint8_t found[SHA1_LEN], *copy;

	hash_sha1(p, n, found);
	if (memcmp(found, guid, SHA1_LEN) != 0)
		return 0; /* asked for when it is missed */
	if ((copy = malloc(n + 1)) == NULL)
		return ERR_NOMEM;
	memcpy(copy, p, n);
	return held_put(l->n->held, guid, copy, n);
}

static int
left_row(void *arg, const struct inbox_item *item)
{
	struct left *l = arg;

	if (l->n_seen == l->cap_seen) {
		size_t cap = l->cap_seen ? l->cap_seen * 2 : 256;
		struct pos *seen = realloc(l->seen, cap * sizeof(*seen));
		if (seen == NULL)
			return ERR_NOMEM;
		l->seen = seen;
		l->cap_seen = cap;
	}
	l->seen[l->n_seen++] = item->pos;
	if (pos_cmp(item->pos, l->received) <= 0)
		return 0;
	if (l->n_rows == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct inbox_item *rows = realloc(l->rows, cap * sizeof(*rows));
		if (rows != NULL)
			l->rows = rows;
		struct buf *bytes = realloc(l->bytes, cap * sizeof(*bytes));
		if (bytes != NULL)
			l->bytes = bytes;
		if (rows == NULL || bytes == NULL)
			return ERR_NOMEM;
		l->cap = cap;
	}
	struct buf *b = &l->bytes[l->n_rows];
	size_t dir_n = strlen(item->dir) + 1;
	*b = (struct buf)BUF_INIT;
	buf_put(b, item->dir, dir_n);
	buf_put(b, item->bytes, item->n);
	if (buf_ok(b) != 0) {
		buf_fini(b);
		return ERR_NOMEM;
	}
	l->rows[l->n_rows++] = (struct inbox_item){ item->pos, (const char *)b->data,
		b->data + dir_n, item->n };
	return 0;
}

static int
by_pos(const void *a, const void *b)
{
	return pos_cmp(*(const struct pos *)a, *(const struct pos *)b);
}

/* Is that row, which waits for replay, in the log with its bodies? */
static int
note_unlogged(void *arg, const struct inbox_item *item, enum inbox_state state)
{
	struct left *l = arg;
	size_t lo = 0, hi = l->n_seen;

	(void)state;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (pos_cmp(l->seen[mid], item->pos) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == l->n_seen || pos_cmp(l->seen[lo], item->pos) != 0)
		l->n->unlogged = item->pos;
	return 0;
}

int
flush_open(struct node *n)
{
	static const struct arrivals_found staged = { .staged = left_staged };
	static const struct arrivals_found found = { .body = left_body,
		.row = left_row };
	struct left l = { .n = n };
	struct inbox_facts f;
	int rc = arrivals_open(n->conf.state, &n->arrivals);

	if (rc != 0)
		return rc;
	inbox_facts(n->inbox, &f);
	l.received = f.received;
	n->unlogged = POS_NONE;
	n->lacking = f.received; /* what waits for replay may wait for a body */
	/* What is staged may be torn unless it was synced. First, for bodies of the log may find no
	 * room in memory and go there as well. */
	rc = arrivals_load(n->arrivals, f.applied, &staged, &l);
	if (l.n_staged > 0)
		qsort(l.staged, l.n_staged, SHA1_LEN, by_guid);
	if (rc == 0 && !store_was_clean(n->store))
		spool_stage_forget(n->spool, was_synced, &l);
	if (rc == 0)
		rc = arrivals_load(n->arrivals, f.applied, &found, &l);
	if (rc == 0 && l.n_rows > 0) {
		log_info("rows that the inbox had lost are taken from the log: n=%zu",
			l.n_rows);
		rc = inbox_put(n->inbox, l.rows, l.n_rows, NULL);
	}
	/* What could not be stored at once stands in the log twice. */
	if (l.n_seen > 0)
		qsort(l.seen, l.n_seen, sizeof(l.seen[0]), by_pos);
	if (rc == 0)
		rc = inbox_walk_pending(
			n->inbox, POS_NONE, UINT64_MAX, note_unlogged, &l);
	for (size_t i = 0; i < l.n_rows; i++)
		buf_fini(&l.bytes[i]);
	free(l.rows);
	free(l.bytes);
	free(l.seen);
	free(l.staged);
	return rc;
}

/* ---- what arrives ---- */

bool
flush_is_wanted(const struct node *n)
{
	const unsigned disk = 1u << SYNC_FLUSHED | 1u << SYNC_APPLIED;

	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && (n->peers[i].want & disk) != 0)
			return n->arrivals != NULL;
	return false;
}

void
flush_body(struct node *n, const uint8_t guid[SHA1_LEN], const void *p, size_t size)
{
	if (flush_is_wanted(n))
		arrivals_body(n->arrivals, guid, p, size);
}

void
flush_staged(struct node *n, const uint8_t guid[SHA1_LEN])
{
	int rc = flush_is_wanted(n) ? spool_stage_sync(n->spool, guid) : 0;

	/* An older row's replay has taken it: it is somewhere. */
	if (rc == ERR_NOTFOUND)
		rc = spool_sync(n->spool);
	if (rc != 0) {
		log_err("a body cannot be synced: %s", err_text(rc));
		n->unsafe = true;
	} else if (flush_is_wanted(n)) {
		arrivals_staged(n->arrivals, guid);
	}
}

/* At once, for the log keeps the order in which rows and bodies came. */
void
flush_row(struct node *n, const struct inbox_item *row)
{
	if (!flush_is_wanted(n))
		return;
	arrivals_row(n->arrivals, row);
	n->n_logged++;
}

bool
flush_arrived(struct node *n)
{
	bool unsafe = n->unsafe;
	int rc;

	n->unsafe = false;
	if (n->arrived_safe)
		return true;
	if (n->n_logged < n->n_arrived) {
		n->unlogged = n->arrived[n->n_arrived - 1].pos;
		return false;
	}
	if ((rc = arrivals_sync(n->arrivals)) != 0) {
		log_err("what arrived cannot be put into the log: %s", err_text(rc));
		/* Bodies of the next row may have been in it. */
		n->unsafe = true;
		n->n_logged = 0;
	}
	if (rc != 0 || unsafe)
		n->unlogged = n->arrived[n->n_arrived - 1].pos;
	n->arrived_safe = rc == 0;
	return n->arrived_safe;
}

void
flush_end(struct node *n)
{
	if (n->arrivals != NULL)
		arrivals_cut(n->arrivals);
}

bool
flush_is_safe(const struct node *n, const struct inbox_facts *f)
{
	return pos_cmp(n->unlogged, f->applied) <= 0 &&
	       pos_cmp(n->lacking, f->applied) <= 0 &&
	       (n->n_arrived == 0 || n->arrived_safe);
}

bool
flush_forget(struct node *n, const struct inbox_facts *f)
{
	int rc;

	if (f->pending > 0 || f->done_rows > 0)
		return false;
	if (n->arrivals == NULL)
		return true;
	if ((rc = arrivals_forget(n->arrivals)) != 0) {
		log_err("the log of arrivals cannot be emptied: %s", err_text(rc));
		return false;
	}
	n->unlogged = n->lacking = POS_NONE;
	/* What has arrived since may have been in it, or bodies of that. */
	n->n_logged = 0;
	n->arrived_safe = false;
	n->unsafe = true;
	return true;
}

void
flush_trim(struct node *n, const struct inbox_facts *f)
{
	if (n->arrivals != NULL)
		arrivals_trim(n->arrivals, f->applied);
}
