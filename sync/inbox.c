/*
 * How it works. The rows' bytes lie in state.db, those of the last ones also in memory (tail.h), where
 * replay finds them unless it is behind. Memory holds an array with one small entry a row, in order
 * of positions, which is also the order of their ids.
 *
 *   state     in the table   in memory   becomes
 *   PENDING   0              PENDING     DONE by inbox_done, HELD by a quarantine
 *   DONE      0              DONE        APPLIED by inbox_record, after a sync of the spool
 *   APPLIED   2              APPLIED     deleted when no PENDING or DONE row is before it
 *   HELD      3              HELD        PENDING or deleted by a release
 *
 * What a crash leaves behind: the table alone. DONE is PENDING again, and replaying it again is
 * harmless. "received" is written with the rows, so it never runs ahead of them; "applied" with
 * the deletion of the rows that it covers.
 */
#include "sync/inbox.h"
#include "meta/base/clock.h"
#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "sync/store_sql.h"
#include "sync/tail.h"

#include <stdlib.h>
#include <string.h>

enum {
	Q_PUT,
	Q_LOAD,
	Q_READ_FROM,
	Q_PENDING_OF_DIR,
	Q_HELD_OF_DIR,
	Q_STATE,
	Q_STATE_OF_DIR,
	Q_DELETE_TO,
	Q_DELETE_OF_DIR,
	Q_DELETE_ALL,
	Q_QUAR_PUT,
	Q_QUAR_GET,
	Q_QUAR_DEL,
	Q_QUAR_ALL,
	Q_QUAR_COUNT,
	Q_N
};

/* In the statements: 0 PENDING, 2 APPLIED, 3 HELD, as in enum inbox_state. */
static const char *const sql[Q_N] = {
	[Q_PUT] = "INSERT INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
	[Q_LOAD] = "SELECT id, epoch, run, seq, state, n FROM inbox ORDER BY id",
	[Q_READ_FROM] = "SELECT id, dir, bytes FROM inbox WHERE id >= ? ORDER BY id",
	[Q_PENDING_OF_DIR] = "SELECT id FROM inbox WHERE dir = ? AND state = 0"
			     " ORDER BY id",
	[Q_HELD_OF_DIR] =
		"SELECT id FROM inbox WHERE dir = ? AND state = 3 ORDER BY id",
	[Q_STATE] = "UPDATE inbox SET state = ?2 WHERE id = ?1",
	[Q_STATE_OF_DIR] = "UPDATE inbox SET state = 0 WHERE dir = ? AND state = 3",
	[Q_DELETE_TO] = "DELETE FROM inbox WHERE id <= ? AND state <> 3",
	[Q_DELETE_OF_DIR] = "DELETE FROM inbox WHERE dir = ? AND state = 3",
	[Q_DELETE_ALL] = "DELETE FROM inbox",
	[Q_QUAR_PUT] =
		"INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
		" ON CONFLICT (dir) DO UPDATE SET uid = excluded.uid,"
		" what = excluded.what, text = excluded.text,"
		" epoch = excluded.epoch, run = excluded.run, seq = excluded.seq",
	[Q_QUAR_GET] = "SELECT 1 FROM quarantine WHERE dir = ?",
	[Q_QUAR_DEL] = "DELETE FROM quarantine WHERE dir = ?",
	[Q_QUAR_ALL] =
		"SELECT dir, uid, what, text, since, epoch, run, seq FROM quarantine"
		" ORDER BY dir",
	[Q_QUAR_COUNT] = "SELECT count(*) FROM quarantine",
};

struct row {
	uint64_t id;
	struct pos pos;
	uint64_t n; /* bytes */
	uint64_t mark; /* DONE: the mark that covers it */
	enum inbox_state state;
};

struct inbox {
	struct store *s;
	struct store_sql *db;
	struct store_q q[Q_N];
	struct tail *tail; /* what was received last, by id */
	struct row *rows;
	size_t n, cap;
	size_t first_open; /* no row before it is PENDING */
	uint64_t next_id;
	uint64_t mark; /* rows DONE from now on carry it */
	struct pos received, applied;
	uint64_t n_quarantined; /* as in the table; every row asks */
};

/* ---- memory ---- */

static int
reserve(struct inbox *in, size_t more)
{
	size_t want = in->n + more, cap = in->cap ? in->cap : 64;

	if (want <= in->cap)
		return 0;
	while (cap < want)
		cap *= 2;
	struct row *p = realloc(in->rows, cap * sizeof(*p));
	if (p == NULL)
		return ERR_NOMEM;
	in->rows = p;
	in->cap = cap;
	return 0;
}

/* The first row at or above pos. */
static size_t
at_pos(const struct inbox *in, struct pos pos)
{
	size_t lo = 0, hi = in->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (pos_cmp(in->rows[mid].pos, pos) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct row *
by_id(struct inbox *in, uint64_t id)
{
	size_t lo = 0, hi = in->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (in->rows[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < in->n && in->rows[lo].id == id ? &in->rows[lo] : NULL;
}

static void
skip_settled(struct inbox *in)
{
	while (in->first_open < in->n &&
		in->rows[in->first_open].state != INBOX_PENDING)
		in->first_open++;
}

/* All up to it is APPLIED or HELD, or DONE where that is to count. */
static struct pos
settled(const struct inbox *in, bool count_done)
{
	struct pos last = in->applied;
	size_t i = 0;

	for (; i < in->n; i++) {
		enum inbox_state st = in->rows[i].state;
		if (st == INBOX_PENDING || (st == INBOX_DONE && !count_done))
			break;
		if (pos_cmp(in->rows[i].pos, last) > 0)
			last = in->rows[i].pos;
	}
	/* nothing is missing: rows that were dropped count as well */
	return i == in->n ? in->received : last;
}

/* ---- positions as values of the store ---- */

static int
put_pos(struct inbox *in, const char *key, struct pos pos)
{
	struct buf b = BUF_INIT;
	int rc;

	wr_be64(&b, pos.epoch);
	wr_be64(&b, pos.run);
	wr_be64(&b, pos.seq);
	if ((rc = buf_ok(&b)) == 0)
		rc = store_put_blob(in->s, key, b.data, b.len);
	buf_fini(&b);
	return rc;
}

static int
get_pos(struct inbox *in, const char *key, struct pos *out)
{
	struct buf b = BUF_INIT;
	int rc = store_get_blob(in->s, key, &b);

	if (rc == 0) {
		struct rd r = rd_over(b.data, b.len);
		out->epoch = rd_be64(&r);
		out->run = rd_be64(&r);
		out->seq = rd_be64(&r);
		rc = rd_done(&r) ? 0 : ERR_STORE;
	}
	buf_fini(&b);
	return rc == ERR_NOTFOUND ? 0 : rc;
}

/* ---- open and close ---- */

static int
load(struct inbox *in)
{
	struct store_q *q = &in->q[Q_LOAD];
	int rc;

	if ((rc = get_pos(in, "inbox_received", &in->received)) != 0 ||
		(rc = get_pos(in, "inbox_applied", &in->applied)) != 0)
		return rc;
	rc = store_sql_first(q, "");
	while (rc > 0) {
		if ((rc = reserve(in, 1)) != 0)
			break;
		struct row *r = &in->rows[in->n++];
		*r = (struct row){ .id = store_sql_u64(q, 0),
			.pos = { store_sql_u64(q, 1), store_sql_u64(q, 2),
				store_sql_u64(q, 3) },
			.state = (enum inbox_state)store_sql_u64(q, 4),
			.n = store_sql_u64(q, 5) };
		in->next_id = r->id + 1;
		rc = store_sql_next(q);
	}
	store_sql_reset(q);
	skip_settled(in);
	return rc;
}

static int
count_quarantined(struct inbox *in)
{
	struct store_q *q = &in->q[Q_QUAR_COUNT];
	int rc = store_sql_first(q, "");

	if (rc > 0)
		in->n_quarantined = store_sql_u64(q, 0);
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

int
inbox_open(struct store *s, struct inbox **out)
{
	struct inbox *in = calloc(1, sizeof(*in));
	int rc;

	*out = NULL;
	if (in == NULL)
		return ERR_NOMEM;
	in->s = s;
	in->db = store_sql_of(s, STORE_DB_STATE);
	in->next_id = in->mark = 1;
	if ((rc = store_sql_prepare(in->db, sql, Q_N, in->q)) == 0 &&
		(rc = load(in)) == 0 && (rc = count_quarantined(in)) == 0 &&
		(rc = tail_open(&in->tail)) == 0) {
		*out = in;
		in = NULL;
	}
	inbox_close(in);
	return rc;
}

void
inbox_close(struct inbox *in)
{
	if (in == NULL)
		return;
	store_sql_drop(in->q, Q_N);
	tail_close(in->tail);
	free(in->rows);
	free(in);
}

/* ---- receiving ---- */

/* One row more, in the open transaction; the caller has made room. */
static int
put_one(struct inbox *in, const struct inbox_item *it)
{
	enum inbox_state state = it->dir[0] != '\0' && inbox_quarantined(in, it->dir)
					 ? INBOX_HELD
					 : INBOX_PENDING;
	int rc = store_sql_run(&in->q[Q_PUT], "iiiiiitb", in->next_id, it->pos.epoch,
		it->pos.run, it->pos.seq, (uint64_t)state, (uint64_t)it->n, it->dir,
		it->bytes, it->n);

	if (rc == 0) {
		struct tail_row row = { in->next_id, it->pos, 0, it->dir, it->bytes,
			it->n };
		tail_put(in->tail, &row);
		in->rows[in->n++] = (struct row){
			.id = in->next_id++, .pos = it->pos, .n = it->n, .state = state
		};
	}
	return rc;
}

int
inbox_put(
	struct inbox *in, const struct inbox_item *items, size_t n, size_t *stored_out)
{
	size_t had = in->n;
	uint64_t had_id = in->next_id;
	struct pos last = in->received;
	int rc;

	for (size_t i = 0; i < n; i++)
		if (items[i].n > STORE_MAX_BLOB ||
			strlen(items[i].dir) >= STORE_MAX_DIR)
			return ERR_LIMIT;
	if ((rc = reserve(in, n)) != 0 || (rc = store_sql_begin(in->db)) != 0)
		return rc;
	for (size_t i = 0; i < n && rc == 0; i++) {
		if (pos_cmp(items[i].pos, last) <= 0)
			continue;
		rc = put_one(in, &items[i]);
		last = items[i].pos;
	}
	if (rc == 0 && in->n > had)
		rc = put_pos(in, "inbox_received", last);
	if (rc != 0)
		store_sql_rollback(in->db);
	else
		rc = store_sql_commit(in->db);
	if (rc != 0) {
		in->n = had;
		in->next_id = had_id;
		tail_cut(in->tail, had_id - 1);
		return rc;
	}
	in->received = last;
	skip_settled(in);
	if (stored_out != NULL)
		*stored_out = in->n - had;
	return 0;
}

int
inbox_put_relaxed(struct inbox *in, const struct inbox_item *items, size_t n)
{
	int rc = store_sql_relax(in->db, true);

	if (rc == 0)
		rc = inbox_put(in, items, n, NULL);
	int back = store_sql_relax(in->db, false);
	return rc != 0 ? rc : back;
}

/* ---- reading ---- */

/* Rows of some states (1 << state), up to max bytes, to the callback. */
struct walk {
	unsigned set;
	uint64_t bytes, max;
	inbox_fn *fn;
	void *arg;
	bool full;
};

static bool
wants(struct walk *w, const struct row *r)
{
	if ((w->set & 1u << r->state) == 0)
		return false;
	w->full = w->bytes > 0 && w->bytes + r->n > w->max;
	w->bytes += r->n + 1;
	return !w->full;
}

static int
walk_file(struct inbox *in, size_t i, struct walk *w)
{
	struct store_q *q = &in->q[Q_READ_FROM];
	int rc, told = 0;

	rc = store_sql_first(q, "i", in->rows[i].id);
	while (rc > 0) {
		const struct row *r = by_id(in, store_sql_u64(q, 0));
		if (r != NULL && wants(w, r)) {
			struct inbox_item it = { .pos = r->pos,
				.dir = store_sql_text(q, 1) };
			it.bytes = store_sql_blob(q, 2, &it.n);
			told = w->fn(w->arg, &it, r->state);
		}
		rc = told == 0 && !w->full ? store_sql_next(q) : 0;
	}
	store_sql_reset(q);
	return rc != 0 ? rc : told;
}

/* From the i-th row on: those that came last are in memory. */
static int
walk(struct inbox *in, size_t i, unsigned set, uint64_t max, inbox_fn *fn, void *arg)
{
	struct walk w = { .set = set, .max = max, .fn = fn, .arg = arg };
	const struct tail_row *t;

	for (; i < in->n && (t = tail_find(in->tail, in->rows[i].id)) != NULL; i++) {
		const struct row *r = &in->rows[i];
		if (!wants(&w, r)) {
			if (w.full)
				return 0;
			continue;
		}
		struct inbox_item it = {
			.pos = r->pos, .dir = t->dir, .bytes = t->bytes, .n = t->n
		};
		int told = fn(arg, &it, r->state);
		if (told != 0)
			return told;
	}
	return i < in->n ? walk_file(in, i, &w) : 0;
}

int
inbox_walk_pending(
	struct inbox *in, struct pos above, uint64_t max_bytes, inbox_fn *fn, void *arg)
{
	size_t i = at_pos(in, above);

	if (i < in->n && pos_cmp(in->rows[i].pos, above) == 0)
		i++;
	if (i < in->first_open)
		i = in->first_open;
	return walk(in, i, 1u << INBOX_PENDING, max_bytes, fn, arg);
}

int
inbox_walk_open(struct inbox *in, inbox_fn *fn, void *arg)
{
	return walk(in, 0, 1u << INBOX_PENDING | 1u << INBOX_HELD, UINT64_MAX, fn, arg);
}

/* ---- applying ---- */

int
inbox_done(struct inbox *in, struct pos pos)
{
	size_t i = at_pos(in, pos);

	if (i == in->n || pos_cmp(in->rows[i].pos, pos) != 0)
		return ERR_NOTFOUND;
	if (in->rows[i].state == INBOX_PENDING) {
		in->rows[i].state = INBOX_DONE;
		in->rows[i].mark = in->mark;
		skip_settled(in);
	}
	return 0;
}

uint64_t
inbox_mark(struct inbox *in)
{
	return in->mark++;
}

static bool
covered(const struct row *r, uint64_t mark)
{
	return r->state == INBOX_DONE && r->mark <= mark;
}

/* How many rows at the front need no order any more, once those covered are APPLIED. */
static size_t
front(const struct inbox *in, uint64_t mark)
{
	size_t i = 0;

	while (i < in->n &&
		(in->rows[i].state == INBOX_APPLIED ||
			in->rows[i].state == INBOX_HELD || covered(&in->rows[i], mark)))
		i++;
	return i;
}

/* Takes rows with the given state among the first n out of memory. */
static void
drop_rows(struct inbox *in, size_t n, enum inbox_state state)
{
	size_t to = 0;

	for (size_t i = 0; i < in->n; i++)
		if (i >= n || in->rows[i].state != state)
			in->rows[to++] = in->rows[i];
	in->n = to;
	in->first_open = 0;
	skip_settled(in);
}

int
inbox_record(struct inbox *in, uint64_t mark)
{
	size_t n = front(in, mark), any = 0;
	struct pos applied = n > 0 ? in->rows[n - 1].pos : in->applied;
	int rc;

	for (size_t i = 0; i < in->n; i++)
		any += covered(&in->rows[i], mark);
	if (any == 0)
		return 0;
	if (pos_cmp(applied, in->applied) < 0)
		applied = in->applied;
	if ((rc = store_sql_begin(in->db)) != 0)
		return rc;
	/* those in front are deleted at once */
	for (size_t i = n; i < in->n && rc == 0; i++)
		if (covered(&in->rows[i], mark))
			rc = store_sql_run(&in->q[Q_STATE], "ii", in->rows[i].id,
				(uint64_t)INBOX_APPLIED);
	if (rc == 0 && n > 0 &&
		(rc = store_sql_run(&in->q[Q_DELETE_TO], "i", in->rows[n - 1].id)) == 0)
		rc = put_pos(in, "inbox_applied", applied);
	if (rc != 0)
		store_sql_rollback(in->db);
	else
		rc = store_sql_commit(in->db);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < in->n; i++)
		if (covered(&in->rows[i], mark))
			in->rows[i].state = INBOX_APPLIED;
	in->applied = applied;
	drop_rows(in, n, INBOX_APPLIED);
	return 0;
}

bool
inbox_settled_before(struct inbox *in, struct pos pos)
{
	return in->first_open == in->n ||
	       pos_cmp(in->rows[in->first_open].pos, pos) >= 0;
}

bool
inbox_recorded_upto(struct inbox *in, struct pos pos)
{
	for (size_t i = 0; i < in->n && pos_cmp(in->rows[i].pos, pos) <= 0; i++)
		if (in->rows[i].state == INBOX_PENDING ||
			in->rows[i].state == INBOX_DONE)
			return false;
	return true;
}

void
inbox_facts(struct inbox *in, struct inbox_facts *out)
{
	memset(out, 0, sizeof(*out));
	out->received = in->received;
	out->applied = settled(in, false);
	out->done = settled(in, true);
	for (size_t i = 0; i < in->n; i++) {
		out->pending += in->rows[i].state == INBOX_PENDING;
		out->done_rows += in->rows[i].state == INBOX_DONE;
		out->held += in->rows[i].state == INBOX_HELD;
		out->bytes += in->rows[i].n;
	}
}

int
inbox_rebase(struct inbox *in, struct pos pos)
{
	int rc;

	for (size_t i = 0; i < in->n; i++)
		if (in->rows[i].state == INBOX_PENDING ||
			in->rows[i].state == INBOX_DONE)
			return ERR_BUSY;
	if ((rc = store_sql_begin(in->db)) != 0)
		return rc;
	if ((rc = store_sql_run(&in->q[Q_DELETE_ALL], "")) == 0 &&
		(rc = put_pos(in, "inbox_received", pos)) == 0)
		rc = put_pos(in, "inbox_applied", pos);
	if (rc != 0)
		store_sql_rollback(in->db);
	else
		rc = store_sql_commit(in->db);
	if (rc != 0)
		return rc;
	in->n = in->first_open = 0;
	in->received = in->applied = pos;
	return 0;
}

/* ---- quarantine ---- */

bool
inbox_quarantined(struct inbox *in, const char *dir)
{
	struct store_q *q = &in->q[Q_QUAR_GET];

	if (in->n_quarantined == 0)
		return false;
	int rc = store_sql_first(q, "t", dir);
	store_sql_reset(q);
	/* if it cannot be told, holding back is the safe side */
	return rc != 0;
}

/* The rows of a mailbox that are PENDING or HELD, as indexes. The caller frees them. */
static int
rows_of(struct inbox *in, const char *dir, enum inbox_state state, size_t **out,
	size_t *n_out)
{
	struct store_q *q =
		&in->q[state == INBOX_HELD ? Q_HELD_OF_DIR : Q_PENDING_OF_DIR];
	size_t *list = malloc((in->n + 1) * sizeof(*list));
	int rc;

	*n_out = 0;
	if ((*out = list) == NULL)
		return ERR_NOMEM;
	rc = store_sql_first(q, "t", dir);
	while (rc > 0) {
		const struct row *r = by_id(in, store_sql_u64(q, 0));
		/* the table does not know of DONE */
		if (r != NULL && r->state == state && *n_out < in->n)
			list[(*n_out)++] = (size_t)(r - in->rows);
		rc = store_sql_next(q);
	}
	store_sql_reset(q);
	return rc;
}

int
inbox_quarantine_put(struct inbox *in, const struct inbox_quarantine *qu)
{
	uint64_t since = qu->since != 0 ? qu->since : clock_wall_ns();
	size_t *list = NULL, n = 0;
	int rc = rows_of(in, qu->dir, INBOX_PENDING, &list, &n);

	if (rc != 0 || (rc = store_sql_begin(in->db)) != 0)
		goto out;
	rc = store_sql_run(&in->q[Q_QUAR_PUT], "tittiiii", qu->dir, (uint64_t)qu->uid,
		qu->check, qu->text, since, qu->pos.epoch, qu->pos.run, qu->pos.seq);
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = store_sql_run(&in->q[Q_STATE], "ii", in->rows[list[i]].id,
			(uint64_t)INBOX_HELD);
	if (rc != 0)
		store_sql_rollback(in->db);
	else
		rc = store_sql_commit(in->db);
	if (rc != 0)
		goto out;
	if (count_quarantined(in) != 0)
		in->n_quarantined++; /* rather too many than none */
	for (size_t i = 0; i < n; i++)
		in->rows[list[i]].state = INBOX_HELD;
	skip_settled(in);
out:
	free(list);
	return rc;
}

int
inbox_quarantine_walk(struct inbox *in, inbox_quarantine_fn *fn, void *arg)
{
	struct store_q *q = &in->q[Q_QUAR_ALL];
	struct inbox_quarantine qu;
	int rc = store_sql_first(q, "");

	while (rc > 0) {
		qu.dir = store_sql_text(q, 0);
		qu.uid = (uint32_t)store_sql_u64(q, 1);
		qu.check = store_sql_text(q, 2);
		qu.text = store_sql_text(q, 3);
		qu.since = store_sql_u64(q, 4);
		qu.pos = (struct pos){ store_sql_u64(q, 5), store_sql_u64(q, 6),
			store_sql_u64(q, 7) };
		int told = fn(arg, &qu);
		if (told != 0) {
			rc = told;
			break;
		}
		rc = store_sql_next(q);
	}
	store_sql_reset(q);
	return rc;
}

uint64_t
inbox_quarantine_count(struct inbox *in)
{
	return in->n_quarantined;
}

/* Removes the rows with these indexes, which rise. */
static void
take_out(struct inbox *in, const size_t *list, size_t n)
{
	size_t to = 0, k = 0;

	for (size_t i = 0; i < in->n; i++) {
		if (k < n && list[k] == i)
			k++;
		else
			in->rows[to++] = in->rows[i];
	}
	in->n = to;
}

int
inbox_quarantine_release(struct inbox *in, const char *dir, bool redo)
{
	/* what was told as applied stays so: the rows were passed, not forgotten */
	struct pos applied = settled(in, false);
	size_t *list = NULL, n = 0;
	int rc;

	if (!inbox_quarantined(in, dir))
		return ERR_NOTFOUND;
	if ((rc = rows_of(in, dir, INBOX_HELD, &list, &n)) != 0 ||
		(rc = store_sql_begin(in->db)) != 0)
		goto out;
	if ((rc = store_sql_run(&in->q[Q_QUAR_DEL], "t", dir)) == 0 &&
		(rc = store_sql_run(&in->q[redo ? Q_STATE_OF_DIR : Q_DELETE_OF_DIR],
			 "t", dir)) == 0)
		rc = put_pos(in, "inbox_applied", applied);
	if (rc != 0)
		store_sql_rollback(in->db);
	else
		rc = store_sql_commit(in->db);
	if (rc != 0)
		goto out;
	count_quarantined(in);
	in->applied = applied;
	for (size_t i = 0; i < n; i++)
		in->rows[list[i]].state = INBOX_PENDING;
	if (!redo)
		take_out(in, list, n);
	in->first_open = 0;
	skip_settled(in);
out:
	free(list);
	return rc;
}
