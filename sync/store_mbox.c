/*
 * Mailbox states and tombstones, in journal.db. A state is replaced in the transaction that
 * appends the batch it is the end of, so the two never disagree, also after a power cut: then
 * both are older than the spool, and the difference is derived again.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "sync/store_sql.h"

#include <stdlib.h>
#include <string.h>

enum {
	Q_AGAIN,
	Q_PUT,
	Q_UNTOMB,
	Q_WALK,
	Q_DROP,
	Q_TOMB,
	Q_COUNT,
	Q_TOMB_GET,
	Q_TOMB_TRIM,
	Q_N
};

static const char *const sql[Q_N] = {
	[Q_AGAIN] = "UPDATE mbox SET seq = ?3, state = ?4 WHERE dir = ?1 AND"
		    " uniqueid = ?2",
	[Q_PUT] = "INSERT INTO mbox VALUES (?, ?, ?, ?) ON CONFLICT (dir) DO UPDATE SET"
		  " uniqueid = excluded.uniqueid, seq = excluded.seq, state = "
		  "excluded.state",
	[Q_UNTOMB] = "DELETE FROM tomb WHERE dir = ? AND uniqueid = ?",
	[Q_WALK] =
		"SELECT dir, uniqueid, seq, state FROM mbox WHERE dir > ? ORDER BY dir"
		" LIMIT ?",
	[Q_DROP] = "DELETE FROM mbox WHERE dir = ?",
	[Q_TOMB] = "INSERT OR REPLACE INTO tomb SELECT dir, uniqueid, ?2, ?3 FROM mbox"
		   " WHERE dir = ?1",
	[Q_COUNT] = "SELECT count(*) FROM mbox",
	[Q_TOMB_GET] = "SELECT seq FROM tomb WHERE dir = ? AND uniqueid = ?",
	[Q_TOMB_TRIM] = "DELETE FROM tomb WHERE seq <= ?",
};

struct store_mbox_sql {
	struct store_q q[Q_N];
};

int
store_mbox_sql_open(struct store *s, struct store_mbox_sql **out)
{
	struct store_mbox_sql *m = calloc(1, sizeof(*m));
	int rc = m == NULL ? ERR_NOMEM
			   : store_sql_prepare(
				     store_sql_of(s, STORE_DB_JOURNAL), sql, Q_N, m->q);

	if (rc != 0) {
		free(m);
		m = NULL;
	}
	*out = m;
	return rc;
}

void
store_mbox_sql_close(struct store_mbox_sql *m)
{
	if (m == NULL)
		return;
	store_sql_drop(m->q, Q_N);
	free(m);
}

static struct store_q *
query(struct store *s, int which)
{
	return &store_mbox_sql_of(s)->q[which];
}

/* Several statements as one change: in the caller's group, or in a transaction of their own. */
static int
enter(struct store *s, bool *own_out)
{
	*own_out = !store_sql_in_tx(store_sql_of(s, STORE_DB_JOURNAL));
	return *own_out ? store_sql_begin(store_sql_of(s, STORE_DB_JOURNAL)) : 0;
}

static int
leave(struct store *s, bool own, int rc)
{
	if (!own)
		return rc;
	if (rc != 0) {
		store_sql_rollback(store_sql_of(s, STORE_DB_JOURNAL));
		return rc;
	}
	return store_sql_commit(store_sql_of(s, STORE_DB_JOURNAL));
}

int
store_mbox_put(struct store *s, const struct store_mbox *m)
{
	bool own;
	int rc;

	if (strlen(m->dir) >= STORE_MAX_DIR || strlen(m->uniqueid) >= STORE_MAX_ID ||
		m->n > STORE_MAX_BLOB)
		return ERR_LIMIT;
	if ((rc = enter(s, &own)) != 0)
		return rc;
	/* Nearly always it is there with that id: then the tombstones need not be touched. */
	rc = store_sql_run(
		query(s, Q_AGAIN), "ttib", m->dir, m->uniqueid, m->seq, m->state, m->n);
	if (rc == 0 && store_sql_changed(query(s, Q_AGAIN)) == 0) {
		rc = store_sql_run(query(s, Q_PUT), "ttib", m->dir, m->uniqueid, m->seq,
			m->state, m->n);
		if (rc == 0)
			rc = store_sql_run(
				query(s, Q_UNTOMB), "tt", m->dir, m->uniqueid);
	}
	return leave(s, own, rc);
}

int
store_mbox_walk(
	struct store *s, const char *after, size_t n, store_mbox_fn *fn, void *arg)
{
	struct store_q *q = query(s, Q_WALK);
	/* SQLite takes a negative limit for none */
	int rc = store_sql_first(q, "ti", after, n > 0 ? n : UINT64_MAX);
	struct store_mbox m;

	while (rc > 0) {
		m.dir = store_sql_text(q, 0);
		m.uniqueid = store_sql_text(q, 1);
		m.seq = store_sql_u64(q, 2);
		m.state = store_sql_blob(q, 3, &m.n);
		int told = fn(arg, &m);
		if (told != 0) {
			rc = told;
			break;
		}
		rc = store_sql_next(q);
	}
	store_sql_reset(q);
	return rc;
}

int
store_mbox_drop(struct store *s, const char *dir, uint64_t seq)
{
	bool own, was = false;
	int rc = enter(s, &own);

	if (rc != 0)
		return rc;
	rc = store_sql_run(query(s, Q_TOMB), "tii", dir, seq, clock_wall_ns());
	if (rc == 0)
		rc = store_sql_run(query(s, Q_DROP), "t", dir);
	if (rc == 0)
		was = store_sql_changed(query(s, Q_DROP)) > 0;
	rc = leave(s, own, rc);
	return rc == 0 && !was ? ERR_NOTFOUND : rc;
}

uint64_t
store_mbox_count(struct store *s)
{
	struct store_q *q = query(s, Q_COUNT);
	uint64_t n = store_sql_first(q, "") > 0 ? store_sql_u64(q, 0) : 0;

	store_sql_reset(q);
	return n;
}

int
store_tomb_get(
	struct store *s, const char *dir, const char *uniqueid, uint64_t *seq_out)
{
	struct store_q *q = query(s, Q_TOMB_GET);
	int rc = store_sql_first(q, "tt", dir, uniqueid);

	if (rc > 0 && seq_out != NULL)
		*seq_out = store_sql_u64(q, 0);
	store_sql_reset(q);
	return rc > 0 ? 0 : rc == 0 ? ERR_NOTFOUND : rc;
}

int
store_tomb_trim(struct store *s, uint64_t upto)
{
	return store_sql_run(query(s, Q_TOMB_TRIM), "i", upto);
}
