/*
 * How it works. The cursors live in memory and in the table "peers" of state.db. A change of
 * state is written, synced, before it is seen in memory. Numbers are written now and then: an
 * old number in the table after a crash only keeps rows a little longer, for what to send is
 * decided by what the peer itself says when it connects.
 */
#include "sync/journal_peer.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "sync/store_sql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAVE_MS = 5000 };

enum { Q_ALL, Q_PUT, Q_DEL, Q_N };
static const char *const sql[Q_N] = {
	[Q_ALL] = "SELECT * FROM peers ORDER BY name", /* columns as in put */
	[Q_PUT] = "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?, ?, ?)",
	[Q_DEL] = "DELETE FROM peers WHERE name = ?",
};

struct journal_peers {
	struct store_sql *db;
	struct store_q q[Q_N];
	struct journal_peer p[JOURNAL_PEERS_MAX]; /* by name */
	unsigned n;
	bool dirty;
	uint64_t saved; /* clock_ms */
};

static int
load(struct journal_peers *t)
{
	struct store_q *q = &t->q[Q_ALL];
	int rc = store_sql_first(q, "");

	while (rc > 0 && t->n < JOURNAL_PEERS_MAX) {
		struct journal_peer *p = &t->p[t->n++];
		snprintf(p->name, sizeof(p->name), "%s", store_sql_text(q, 0));
		p->state = (enum journal_peer_state)store_sql_u64(q, 1);
		p->epoch = store_sql_u64(q, 2);
		p->run = store_sql_u64(q, 3);
		p->received = store_sql_u64(q, 4);
		p->flushed = store_sql_u64(q, 5);
		p->applied = store_sql_u64(q, 6);
		rc = store_sql_next(q);
	}
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

int
journal_peer_open(struct store *s, struct journal_peers **out)
{
	struct journal_peers *t = calloc(1, sizeof(*t));
	int rc;

	*out = NULL;
	if (t == NULL)
		return ERR_NOMEM;
	t->db = store_sql_of(s, STORE_DB_STATE);
	t->saved = clock_ms();
	if ((rc = store_sql_prepare(t->db, sql, Q_N, t->q)) == 0 &&
		(rc = load(t)) == 0) {
		*out = t;
		t = NULL;
	}
	journal_peer_close(t);
	return rc;
}

void
journal_peer_close(struct journal_peers *t)
{
	if (t == NULL)
		return;
	store_sql_drop(t->q, Q_N);
	free(t);
}

bool
journal_peer_holds(const struct journal_peer *p)
{
	return p->state == JOURNAL_PEER_STREAMING || p->state == JOURNAL_PEER_COMPARING;
}

static struct journal_peer *
find(struct journal_peers *t, const char *name)
{
	for (unsigned i = 0; i < t->n; i++)
		if (strcmp(t->p[i].name, name) == 0)
			return &t->p[i];
	return NULL;
}

static int
write_one(struct journal_peers *t, const struct journal_peer *p)
{
	return store_sql_run(&t->q[Q_PUT], "tiiiiii", p->name, (uint64_t)p->state,
		p->epoch, p->run, p->received, p->flushed, p->applied);
}

int
journal_peer_save(struct journal_peers *t, bool now)
{
	int rc;

	if (!t->dirty || (!now && clock_ms() - t->saved < SAVE_MS))
		return 0;
	if ((rc = store_sql_begin(t->db)) != 0)
		return rc;
	for (unsigned i = 0; i < t->n; i++)
		write_one(t, &t->p[i]); /* the commit knows of a failure */
	if ((rc = store_sql_commit(t->db)) == 0) {
		t->dirty = false;
		t->saved = clock_ms();
	}
	return rc;
}

int
journal_peer_get(struct journal *j, const char *name, struct journal_peer *out)
{
	struct journal_peer *p = find(journal_peer_of(j), name);

	if (p == NULL)
		return ERR_NOTFOUND;
	*out = *p;
	return 0;
}

int
journal_peer_at(struct journal *j, unsigned i, struct journal_peer *out)
{
	struct journal_peers *t = journal_peer_of(j);

	if (i >= t->n)
		return ERR_NOTFOUND;
	*out = t->p[i];
	return 0;
}

static void
insert(struct journal_peers *t, const struct journal_peer *p)
{
	unsigned at = 0;

	while (at < t->n && strcmp(t->p[at].name, p->name) < 0)
		at++;
	memmove(&t->p[at + 1], &t->p[at], (t->n - at) * sizeof(t->p[0]));
	t->p[at] = *p;
	t->n++;
}

int
journal_peer_set(struct journal *j, const struct journal_peer *p)
{
	struct journal_peers *t = journal_peer_of(j);
	struct journal_peer *was;
	int rc;

	if (p->name[0] == '\0' || memchr(p->name, '\0', sizeof(p->name)) == NULL)
		return ERR_USAGE;
	was = find(t, p->name);
	if (was != NULL && was->state == p->state) {
		*was = *p;
		t->dirty = true;
		return 0;
	}
	if (was == NULL && t->n == JOURNAL_PEERS_MAX)
		return ERR_LIMIT;
	if ((rc = write_one(t, p)) != 0)
		return rc;
	if (was != NULL)
		*was = *p;
	else
		insert(t, p);
	return 0;
}

int
journal_peer_forget(struct journal *j, const char *name)
{
	struct journal_peers *t = journal_peer_of(j);
	struct journal_peer *p = find(t, name);
	int rc;

	if (p == NULL)
		return ERR_NOTFOUND;
	if ((rc = store_sql_run(&t->q[Q_DEL], "t", name)) != 0)
		return rc;
	t->n--;
	memmove(p, p + 1, (size_t)(&t->p[t->n] - p) * sizeof(*p));
	return 0;
}
