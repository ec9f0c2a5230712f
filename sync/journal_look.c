/*
 * How it works. Pieces of some rows, each in a read transaction of its own that ends before the
 * caller prints anything: a pager that waits for a key must not keep the log from being moved
 * into the file.
 *
 * SQLite's log beside the file says whether somebody may be writing: with it, the file is opened
 * as any reader does; without it (after a clean stop, or a copy), as one that nobody changes,
 * which makes no files beside it. Then the log must not have come up before the end.
 */
#include "sync/journal_look.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/store_sql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_ROWS = 256, PIECE_BYTES = 8 << 20 };

enum { Q_ROWS, Q_LAST, Q_N };
static const char *const sql[Q_N] = {
	[Q_ROWS] = "SELECT seq, epoch, run, time, dir, bytes, n FROM journal"
		   " WHERE seq >= ? AND seq <= ? ORDER BY seq LIMIT ?",
	[Q_LAST] = "SELECT coalesce(max(seq), 0) FROM journal",
};

struct journal_look {
	struct store_sql *db;
	struct store_q q[Q_N];
	char wal[STORE_MAX_DIR];
	bool alone; /* there was no log when it was opened */
	uint64_t next, last;
};

static bool
is_alone(const struct journal_look *l)
{
	return access(l->wal, F_OK) != 0;
}

int
journal_look_open(const char *path, struct journal_look **out)
{
	struct journal_look *l = calloc(1, sizeof(*l));
	int rc = 0;

	*out = NULL;
	if (l == NULL)
		return ERR_NOMEM;
	if ((size_t)snprintf(l->wal, sizeof(l->wal), "%s-wal", path) >= sizeof(l->wal))
		rc = ERR_LIMIT;
	else if (access(path, F_OK) != 0)
		rc = ERR_NOTFOUND;
	l->alone = is_alone(l);
	if (rc == 0 &&
		(rc = store_sql_look(path, store_sql_file_of(STORE_DB_JOURNAL),
			 "journal", l->alone, &l->db)) == 0 &&
		(rc = store_sql_prepare(l->db, sql, Q_N, l->q)) == 0 &&
		(rc = store_sql_first(&l->q[Q_LAST], "")) >= 0) {
		l->last = rc > 0 ? store_sql_u64(&l->q[Q_LAST], 0) : 0;
		store_sql_reset(&l->q[Q_LAST]);
		*out = l;
		return 0;
	}
	journal_look_close(l);
	return rc;
}

void
journal_look_close(struct journal_look *l)
{
	if (l == NULL)
		return;
	store_sql_drop(l->q, Q_N);
	store_sql_close(l->db);
	free(l);
}

int
journal_look_next(struct journal_look *l, journal_look_fn *fn, void *arg)
{
	struct store_q *q = &l->q[Q_ROWS];
	size_t bytes = 0;
	int rc = store_sql_first(q, "iii", l->next, l->last, (uint64_t)PIECE_ROWS);
	bool any = rc > 0;

	for (; rc > 0 && bytes < PIECE_BYTES; rc = store_sql_next(q)) {
		struct journal_row row = { 0 };
		row.pos.seq = store_sql_u64(q, 0);
		row.pos.epoch = store_sql_u64(q, 1);
		row.pos.run = store_sql_u64(q, 2);
		row.time = store_sql_u64(q, 3);
		row.dir = store_sql_text(q, 4);
		row.bytes = store_sql_blob(q, 5, &row.n);
		uint64_t counted = store_sql_u64(q, 6);
		int damage =
			counted != journal_row_size(row.dir, row.n) ? ERR_MANGLED : 0;
		l->next = row.pos.seq + 1;
		bytes += row.n;
		int stop = fn(arg, &row, damage);
		if (stop != 0) {
			rc = stop;
			break;
		}
	}
	store_sql_reset(q);
	if (l->alone && !is_alone(l)) {
		log_err("a server was started on this journal meanwhile: try again");
		return ERR_BUSY;
	}
	return rc < 0 ? rc : any;
}
