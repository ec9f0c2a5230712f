/*
 * Mailbox states and tombstones, in journal.db. A state is replaced in the transaction that
 * appends the batch it is the end of, so the two never disagree, also after a power cut: then
 * both are older than the spool, and the difference is derived again.
 *
 * Directories are compared as bytes. "In or below F" is dir = F or F/ <= dir < F0, for '0' is
 * the byte behind '/'.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "sync/store_sql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	Q_AGAIN,
	Q_PUT,
	Q_UNTOMB,
	Q_GET,
	Q_BY_ID,
	Q_WALK,
	Q_BELOW,
	Q_DROP,
	Q_TOMB,
	Q_COUNT,
	Q_MOVE_CLEAR,
	Q_MOVE_TOMB,
	Q_MOVE_UNTOMB,
	Q_MOVE,
	Q_TOMB_GET,
	Q_TOMB_WALK,
	Q_TOMB_TRIM,
	Q_N
};

#define BELOW "(dir = ?1 OR (dir >= ?2 AND dir < ?3))"
#define NEW_NAME \
	"?4 || CAST(substr(CAST(dir AS BLOB), length(CAST(?1 AS BLOB)) + 1) AS TEXT)"

static const char *const sql[Q_N] = {
	[Q_AGAIN] = "UPDATE mbox SET seq = ?3, state = ?4 WHERE dir = ?1 AND"
		    " uniqueid = ?2",
	[Q_PUT] = "INSERT INTO mbox VALUES (?, ?, ?, ?) ON CONFLICT (dir) DO UPDATE SET"
		  " uniqueid = excluded.uniqueid, seq = excluded.seq, state = "
		  "excluded.state",
	[Q_UNTOMB] = "DELETE FROM tomb WHERE dir = ? AND uniqueid = ?",
	[Q_GET] = "SELECT uniqueid, seq, state FROM mbox WHERE dir = ?",
	[Q_BY_ID] = "SELECT dir, uniqueid, seq, state FROM mbox WHERE uniqueid = ?"
		    " AND uniqueid <> '' ORDER BY dir",
	[Q_WALK] =
		"SELECT dir, uniqueid, seq, state FROM mbox WHERE dir > ? ORDER BY dir"
		" LIMIT ?",
	[Q_BELOW] = "SELECT dir, uniqueid, seq, state FROM mbox WHERE " BELOW
		    " ORDER BY dir",
	[Q_DROP] = "DELETE FROM mbox WHERE dir = ?",
	[Q_TOMB] = "INSERT OR REPLACE INTO tomb SELECT dir, uniqueid, ?2, ?3 FROM mbox"
		   " WHERE dir = ?1",
	[Q_COUNT] = "SELECT count(*) FROM mbox",
	[Q_MOVE_CLEAR] = "DELETE FROM mbox WHERE " BELOW,
	[Q_MOVE_TOMB] =
		"INSERT OR REPLACE INTO tomb SELECT dir, uniqueid, ?4, ?5 FROM mbox"
		" WHERE " BELOW,
	[Q_MOVE_UNTOMB] = "DELETE FROM tomb WHERE (dir, uniqueid) IN (SELECT " NEW_NAME
			  ", uniqueid FROM mbox WHERE " BELOW ")",
	[Q_MOVE] =
		"UPDATE mbox SET dir = " NEW_NAME ", seq = max(seq, ?5) WHERE " BELOW,
	[Q_TOMB_GET] = "SELECT seq FROM tomb WHERE dir = ? AND uniqueid = ?",
	[Q_TOMB_WALK] = "SELECT dir, uniqueid, seq, time FROM tomb WHERE seq > ?"
			" ORDER BY seq, dir",
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
	/* Nearly always it is there with that id: then neither the index over ids nor the tombstones
	 * have to be touched. */
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
store_mbox_get(struct store *s, const char *dir, struct buf *state_out,
	char *uniqueid_out, uint64_t *seq_out)
{
	struct store_q *q = query(s, Q_GET);
	int rc = store_sql_first(q, "t", dir);
	size_t n;

	if (rc > 0) {
		rc = 0;
		if (uniqueid_out != NULL)
			snprintf(
				uniqueid_out, STORE_MAX_ID, "%s", store_sql_text(q, 0));
		if (seq_out != NULL)
			*seq_out = store_sql_u64(q, 1);
		if (state_out != NULL) {
			const void *p = store_sql_blob(q, 2, &n);
			buf_clear(state_out);
			buf_put(state_out, p, n);
			rc = buf_ok(state_out);
		}
	} else if (rc == 0) {
		rc = ERR_NOTFOUND;
	}
	store_sql_reset(q);
	return rc;
}

/* Hands all rows of a query that has just been stepped to first to the callback. */
static int
hand_mboxes(struct store_q *q, int rc, store_mbox_fn *fn, void *arg)
{
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
store_mbox_by_id(struct store *s, const char *uniqueid, store_mbox_fn *fn, void *arg)
{
	struct store_q *q = query(s, Q_BY_ID);

	return hand_mboxes(q, store_sql_first(q, "t", uniqueid), fn, arg);
}

int
store_mbox_walk(
	struct store *s, const char *after, size_t n, store_mbox_fn *fn, void *arg)
{
	struct store_q *q = query(s, Q_WALK);
	/* SQLite takes a negative limit for none */
	uint64_t limit = n > 0 ? n : UINT64_MAX;

	return hand_mboxes(q, store_sql_first(q, "ti", after, limit), fn, arg);
}

struct below {
	char from[STORE_MAX_DIR + 1], to[STORE_MAX_DIR + 1];
};

static int
below(const char *folder, struct below *out)
{
	if (*folder == '\0')
		return ERR_USAGE;
	if (strlen(folder) >= STORE_MAX_DIR)
		return ERR_LIMIT;
	snprintf(out->from, sizeof(out->from), "%s/", folder);
	snprintf(out->to, sizeof(out->to), "%s0", folder);
	return 0;
}

int
store_mbox_below(struct store *s, const char *folder, store_mbox_fn *fn, void *arg)
{
	struct store_q *q = query(s, Q_BELOW);
	struct below b;
	int rc = below(folder, &b);

	if (rc != 0)
		return rc;
	return hand_mboxes(q, store_sql_first(q, "ttt", folder, b.from, b.to), fn, arg);
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

int
store_mbox_move(struct store *s, const char *from, const char *to, uint64_t seq,
	size_t *moved_out)
{
	struct below f, t;
	size_t moved = 0, to_len = strlen(to);
	bool own;
	int rc;

	if ((rc = below(from, &f)) != 0 || (rc = below(to, &t)) != 0)
		return rc;
	/* a folder cannot move into itself, and the statements below rely on it */
	if (strcmp(from, to) == 0 || strncmp(to, f.from, strlen(f.from)) == 0 ||
		strncmp(from, t.from, to_len + 1) == 0)
		return ERR_USAGE;
	if ((rc = enter(s, &own)) != 0)
		return rc;
	if ((rc = store_sql_run(query(s, Q_MOVE_CLEAR), "ttt", to, t.from, t.to)) ==
			0 &&
		(rc = store_sql_run(query(s, Q_MOVE_UNTOMB), "tttt", from, f.from, f.to,
			 to)) == 0 &&
		(rc = store_sql_run(query(s, Q_MOVE_TOMB), "tttii", from, f.from, f.to,
			 seq, clock_wall_ns())) == 0 &&
		(rc = store_sql_run(
			 query(s, Q_MOVE), "tttti", from, f.from, f.to, to, seq)) == 0)
		moved = store_sql_changed(query(s, Q_MOVE));
	rc = leave(s, own, rc);
	if (rc == 0 && moved_out != NULL)
		*moved_out = moved;
	return rc;
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
store_tomb_walk(struct store *s, uint64_t above, store_tomb_fn *fn, void *arg)
{
	struct store_q *q = query(s, Q_TOMB_WALK);
	struct store_tomb t;
	int rc = store_sql_first(q, "i", above);

	while (rc > 0) {
		t.dir = store_sql_text(q, 0);
		t.uniqueid = store_sql_text(q, 1);
		t.seq = store_sql_u64(q, 2);
		t.time = store_sql_u64(q, 3);
		int told = fn(arg, &t);
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
store_tomb_trim(struct store *s, uint64_t upto)
{
	return store_sql_run(query(s, Q_TOMB_TRIM), "i", upto);
}
