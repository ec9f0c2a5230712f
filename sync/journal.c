/*
 * How it works. Rows are numbered by seq. Each row carries the number of rows and bytes up to
 * and with it since the journal began, so that what is held is known from the oldest and the
 * newest row, without a scan.
 *
 * What a crash leaves behind
 *   process killed      all groups that were committed; the next start is unclean, so a new run
 *   power cut           journal.db at some earlier commit: the tail is gone together with the
 *                       mailbox states of its batches, so capture derives it again. The new run
 *                       begins above every seq that was ever seen, cursors of peers included; a
 *                       peer that has the lost tail is judged BEYOND and compared
 *   while trimming      BEHIND is in state.db before the rows go from journal.db
 *   journal.db removed  runs and cursors are in state.db, so seqs still go on upwards. Where the
 *                       run ended is not known and stays so (NULL): a peer that was in it is
 *                       judged BEHIND, for the spool has all that was ever sent
 *
 * What was appended last is also in memory (tail.h), where a peer that keeps up finds it.
 *
 * Invariants
 *   trimmed < first held seq <= last.seq <= seq, the counter from which the next seq is made
 *   a closed run's "last" is the last seq in it that journal.db had when the next one opened
 */
#include "sync/journal_peer.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/store_sql.h"
#include "sync/tail.h"

#include <stdlib.h>
#include <string.h>

enum {
	ROW_OVERHEAD = 64, /* counted for each row besides dir and bytes */
	TRIM_ROWS = 4096,
	RUNS_KEPT = 1000,
	TOMBS_KEPT = 100000 /* seqs */
};

enum {
	Q_APPEND,
	Q_READ,
	Q_OLDEST,
	Q_NEWEST,
	Q_AGES,
	Q_DELETE,
	Q_META_PUT,
	Q_META_GET,
	Q_TOMB_MAX,
	Q_N
};
static const char *const sql[Q_N] = {
	[Q_APPEND] = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[Q_READ] =
		"SELECT seq, epoch, run, time, dir, bytes FROM journal WHERE seq >= ?"
		" ORDER BY seq",
	[Q_OLDEST] = "SELECT seq, time, cum, nth, n FROM journal ORDER BY seq LIMIT 1",
	[Q_NEWEST] =
		"SELECT seq, epoch, run, cum, nth, time FROM journal ORDER BY seq DESC "
		"LIMIT 1",
	[Q_AGES] = "SELECT seq, epoch, run, time, cum, n FROM journal ORDER BY seq "
		   "LIMIT ?",
	[Q_DELETE] = "DELETE FROM journal WHERE seq <= ?",
	[Q_META_PUT] = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key)"
		       " DO UPDATE SET v = excluded.v",
	[Q_META_GET] = "SELECT v FROM meta WHERE key = ?",
	[Q_TOMB_MAX] = "SELECT coalesce(max(seq), 0) FROM tomb",
};

enum {
	Q_RUN_NEW,
	Q_RUN_CLOSE,
	Q_RUN_NEWEST,
	Q_RUN_GET,
	Q_RUN_FIRST,
	Q_RUN_TOP,
	Q_RUN_PRUNE,
	Q_STATE_N
};
static const char *const state_sql[Q_STATE_N] = {
	[Q_RUN_NEW] = "INSERT INTO runs VALUES (?, ?, ?, NULL)",
	[Q_RUN_CLOSE] = "UPDATE runs SET last = ? WHERE epoch = ? AND run = ?",
	[Q_RUN_NEWEST] =
		"SELECT epoch, run, first FROM runs ORDER BY epoch DESC, run DESC"
		" LIMIT 1",
	[Q_RUN_GET] = "SELECT first, last, last IS NULL FROM runs WHERE epoch = ?"
		      " AND run = ?",
	[Q_RUN_FIRST] = "SELECT first FROM runs WHERE epoch = ? ORDER BY run LIMIT 1",
	[Q_RUN_TOP] = "SELECT max(coalesce(max(first), 1) - 1, coalesce(max(last), 0))"
		      " FROM runs",
	[Q_RUN_PRUNE] =
		"DELETE FROM runs WHERE run > (SELECT min(run) FROM runs AS r"
		" WHERE r.epoch = runs.epoch) AND (epoch, run) IN (SELECT epoch, run"
		" FROM runs ORDER BY epoch DESC, run DESC LIMIT -1 OFFSET ?)",
};

/* What a group changes, and its rollback puts back. */
struct counters {
	uint64_t seq; /* the last one given out */
	struct pos last; /* of the newest row there ever was */
	uint64_t cum, nth; /* with the newest row */
	uint64_t first; /* oldest row held, 0 if none */
	uint64_t first_time;
	uint64_t last_time; /* of the newest row there ever was */
};

struct journal {
	struct store *s;
	struct store_sql *jdb, *sdb;
	struct journal_peers *peers;
	struct tail *tail;
	struct journal_limits limits;
	struct store_q q[Q_N], st[Q_STATE_N];
	struct counters c, before; /* before: at journal_begin */
	uint64_t cum_trimmed, nth_trimmed; /* with the newest row that is gone */
	struct pos trimmed;
	uint64_t epoch, run, run_first; /* the newest run, 0 if none */
	bool writable;
	bool in_group;
};

/* ---- open and close ---- */

static int
meta_get(struct journal *j, const char *key, uint64_t *v_out)
{
	struct store_q *q = &j->q[Q_META_GET];
	int rc = store_sql_first(q, "t", key);

	if (rc > 0)
		*v_out = store_sql_u64(q, 0);
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

static int
load_rows(struct journal *j)
{
	struct store_q *q = &j->q[Q_NEWEST];
	struct counters *c = &j->c;
	int rc;

	if ((rc = meta_get(j, "trimmed", &j->trimmed.seq)) != 0 ||
		(rc = meta_get(j, "trimmed_epoch", &j->trimmed.epoch)) != 0 ||
		(rc = meta_get(j, "trimmed_run", &j->trimmed.run)) != 0 ||
		(rc = meta_get(j, "trimmed_cum", &j->cum_trimmed)) != 0 ||
		(rc = meta_get(j, "trimmed_nth", &j->nth_trimmed)) != 0 ||
		(rc = meta_get(j, "trimmed_time", &c->last_time)) != 0)
		return rc;
	c->last = j->trimmed;
	c->cum = j->cum_trimmed;
	c->nth = j->nth_trimmed;
	if ((rc = store_sql_first(q, "")) > 0) {
		c->last.seq = store_sql_u64(q, 0);
		c->last.epoch = store_sql_u64(q, 1);
		c->last.run = store_sql_u64(q, 2);
		c->cum = store_sql_u64(q, 3);
		c->nth = store_sql_u64(q, 4);
		c->last_time = store_sql_u64(q, 5);
	}
	store_sql_reset(q);
	c->seq = c->last.seq;
	return rc < 0 ? rc : 0;
}

/* The oldest row held; after open and after a trim. */
static int
load_oldest(struct journal *j)
{
	struct store_q *q = &j->q[Q_OLDEST];
	int rc = store_sql_first(q, "");

	j->c.first = j->c.first_time = 0;
	if (rc > 0) {
		j->c.first = store_sql_u64(q, 0);
		j->c.first_time = store_sql_u64(q, 1);
	}
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

static int
load_runs(struct journal *j)
{
	struct store_q *q = &j->st[Q_RUN_NEWEST];
	int rc = store_sql_first(q, "");

	if (rc > 0) {
		j->epoch = store_sql_u64(q, 0);
		j->run = store_sql_u64(q, 1);
		j->run_first = store_sql_u64(q, 2);
		if (j->c.seq < j->run_first - 1)
			j->c.seq = j->run_first - 1;
	}
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

static void
dispose(struct journal *j)
{
	if (j == NULL)
		return;
	store_sql_drop(j->q, Q_N);
	store_sql_drop(j->st, Q_STATE_N);
	journal_peer_close(j->peers);
	tail_close(j->tail);
	free(j);
}

int
journal_open(struct store *s, const struct journal_limits *limits, struct journal **out)
{
	struct journal *j = calloc(1, sizeof(*j));
	int rc;

	*out = NULL;
	if (j == NULL)
		return ERR_NOMEM;
	j->s = s;
	j->jdb = store_sql_of(s, STORE_DB_JOURNAL);
	j->sdb = store_sql_of(s, STORE_DB_STATE);
	j->limits = *limits;
	if ((rc = store_sql_prepare(j->jdb, sql, Q_N, j->q)) == 0 &&
		(rc = store_sql_prepare(j->sdb, state_sql, Q_STATE_N, j->st)) == 0 &&
		(rc = load_rows(j)) == 0 && (rc = load_oldest(j)) == 0 &&
		(rc = load_runs(j)) == 0 && (rc = tail_open(&j->tail)) == 0 &&
		(rc = journal_peer_open(s, &j->peers)) == 0) {
		*out = j;
		j = NULL;
	}
	dispose(j);
	return rc;
}

void
journal_close(struct journal *j)
{
	if (j == NULL)
		return;
	journal_rollback(j);
	journal_peer_save(j->peers, true);
	dispose(j);
}

/* ---- runs ---- */

/* The last seq of the newest run that exists, or the one before its first. */
static uint64_t
run_end(const struct journal *j)
{
	return j->c.last.epoch == j->epoch && j->c.last.run == j->run
		       ? j->c.last.seq
		       : j->run_first - 1;
}

static int
number(struct store_q *q, uint64_t *at_least)
{
	int rc = store_sql_first(q, "");

	if (rc > 0 && store_sql_u64(q, 0) > *at_least)
		*at_least = store_sql_u64(q, 0);
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

/* Above everything that anybody may know as one of our seqs. */
static int
highest_seen(struct journal *j, uint64_t floor, uint64_t *out)
{
	struct journal_peer p;
	int rc;

	*out = floor > j->c.seq ? floor : j->c.seq;
	for (unsigned i = 0; journal_peer_at(j, i, &p) == 0; i++)
		if (p.received > *out)
			*out = p.received;
	rc = number(&j->q[Q_TOMB_MAX], out);
	return rc != 0 ? rc : number(&j->st[Q_RUN_TOP], out);
}

/*
 * A run is numbered by the clock, so that no two lives ever use the same number: not those of a
 * state folder that was put back from a copy or a snapshot either, which cannot know what the life
 * after the copy has sent. Where the clock went backwards it is one more than the last.
 */
static int
new_run(struct journal *j, uint64_t epoch, uint64_t floor)
{
	uint64_t run = clock_wall_ns() / 1000000, top;
	int rc = highest_seen(j, floor, &top);

	if (run == 0)
		run = 1;
	if (epoch == j->epoch && run <= j->run)
		run = j->run + 1;

	if (rc != 0 || (rc = store_sql_begin(j->sdb)) != 0)
		return rc;
	if ((j->epoch == 0 || store_lost_journal(j->s) ||
		    (rc = store_sql_run(&j->st[Q_RUN_CLOSE], "iii", run_end(j),
			     j->epoch, j->run)) == 0) &&
		(rc = store_sql_run(&j->st[Q_RUN_NEW], "iii", epoch, run, top + 1)) ==
			0 &&
		(rc = store_sql_run(&j->st[Q_RUN_PRUNE], "i", (uint64_t)RUNS_KEPT)) ==
			0)
		rc = store_set_clean(j->s, false);
	if (rc != 0) {
		store_sql_rollback(j->sdb);
		return rc;
	}
	if ((rc = store_sql_commit(j->sdb)) != 0)
		return rc;
	j->epoch = epoch;
	j->run = run;
	j->run_first = top + 1;
	j->c.seq = top;
	log_info("journal run opened epoch=%" PRIu64 " run=%" PRIu64 " first=%" PRIu64,
		epoch, run, top + 1);
	return 0;
}

int
journal_resume(struct journal *j, uint64_t epoch, uint64_t floor)
{
	int rc;

	if (epoch == 0 || epoch < j->epoch || j->in_group)
		return ERR_USAGE;
	if (j->writable && epoch == j->epoch)
		return 0;
	rc = new_run(j, epoch, floor);
	if (rc == 0)
		j->writable = true;
	return rc;
}

/* ---- append and read ---- */

int
journal_begin(struct journal *j)
{
	int rc = store_sql_begin(j->jdb);

	if (rc == 0) {
		j->before = j->c;
		j->in_group = true;
	}
	return rc;
}

/* The group is over, and was never there. */
static void
undo(struct journal *j)
{
	j->c = j->before;
	tail_cut(j->tail, j->c.seq);
}

void
journal_rollback(struct journal *j)
{
	if (!j->in_group)
		return;
	store_sql_rollback(j->jdb);
	undo(j);
	j->in_group = false;
}

int
journal_commit(struct journal *j)
{
	if (!j->in_group)
		return ERR_USAGE;
	int rc = store_sql_commit(j->jdb);
	if (rc != 0)
		undo(j);
	j->in_group = false;
	return rc;
}

uint64_t
journal_row_size(const char *dir, size_t n)
{
	return n + strlen(dir) + ROW_OVERHEAD;
}

static int
append(struct journal *j, const struct journal_entry *e)
{
	struct counters c = j->c;
	uint64_t now = clock_wall_ns();
	int rc;

	c.seq++;
	c.last = (struct pos){ j->epoch, j->run, c.seq };
	c.cum += journal_row_size(e->dir, e->n);
	c.nth++;
	c.last_time = now;
	if (c.first == 0) {
		c.first = c.seq;
		c.first_time = now;
	}
	rc = store_sql_run(&j->q[Q_APPEND], "iiiiiiitb", c.seq, j->epoch, j->run, now,
		c.cum, c.nth, c.cum - j->c.cum, e->dir, e->bytes, e->n);
	if (rc == 0 && e->state != NULL) {
		struct store_mbox m = { e->dir, e->uniqueid, c.seq, e->state,
			e->state_n };
		rc = store_mbox_put(j->s, &m);
	}
	if (rc == 0) {
		struct tail_row row = { c.seq, c.last, now, e->dir, e->bytes, e->n };
		tail_put(j->tail, &row);
		j->c = c;
	}
	return rc;
}

int
journal_append(struct journal *j, const struct journal_entry *e, uint64_t *seq_out)
{
	bool own = !j->in_group;
	int rc;

	if (!j->writable)
		return ERR_ROLE;
	if (e->n > STORE_MAX_BLOB || e->state_n > STORE_MAX_BLOB ||
		strlen(e->dir) >= STORE_MAX_DIR ||
		(e->state != NULL && strlen(e->uniqueid) >= STORE_MAX_ID))
		return ERR_LIMIT;
	if (own && (rc = journal_begin(j)) != 0)
		return rc;
	rc = append(j, e);
	if (own) {
		if (rc == 0)
			rc = journal_commit(j);
		else
			journal_rollback(j);
	}
	if (rc == 0)
		*seq_out = j->c.seq;
	return rc;
}

/* A walk over rows that ends with fn, with so many bytes, or with the last row. */
struct walk {
	journal_fn *fn;
	void *arg;
	uint64_t bytes, most;
	uint64_t next;
	bool full;
};

static int
walk_row(struct walk *w, const struct journal_row *r)
{
	int rc;

	w->full = w->bytes > 0 && w->bytes + r->n > w->most;
	if (w->full)
		return 0;
	w->bytes += r->n + ROW_OVERHEAD;
	rc = w->fn(w->arg, r);
	if (rc == 0)
		w->next = r->pos.seq + 1;
	return rc;
}

static int
walk_file(struct journal *j, struct walk *w)
{
	struct store_q *q = &j->q[Q_READ];
	struct journal_row r;
	int rc, told = 0;

	rc = store_sql_first(q, "i", w->next);
	while (rc > 0) {
		r.pos.seq = store_sql_u64(q, 0);
		r.pos.epoch = store_sql_u64(q, 1);
		r.pos.run = store_sql_u64(q, 2);
		r.time = store_sql_u64(q, 3);
		r.dir = store_sql_text(q, 4);
		r.bytes = store_sql_blob(q, 5, &r.n);
		told = walk_row(w, &r);
		rc = told == 0 && !w->full ? store_sql_next(q) : 0;
	}
	store_sql_reset(q);
	return rc != 0 ? rc : told;
}

int
journal_read(struct journal *j, uint64_t from, uint64_t max_bytes, journal_fn *fn,
	void *arg, uint64_t *next_out)
{
	struct walk w = { .fn = fn, .arg = arg, .most = max_bytes, .next = from };
	const struct tail_row *t;
	int rc = 0;

	*next_out = from;
	if (j->in_group)
		return ERR_USAGE; /* what it would see may yet be undone */
	if (from <= j->trimmed.seq)
		return ERR_GONE;
	while (rc == 0 && !w.full && (t = tail_find(j->tail, w.next)) != NULL) {
		struct journal_row r = { t->pos, t->time, t->dir, t->bytes, t->n };
		rc = walk_row(&w, &r);
	}
	if (rc == 0 && !w.full && w.next <= j->c.last.seq)
		rc = walk_file(j, &w);
	*next_out = w.next;
	return rc;
}

void
journal_facts(struct journal *j, struct journal_facts *out)
{
	*out = (struct journal_facts){
		.last = j->c.last,
		.epoch = j->epoch,
		.run = j->run,
		.first = j->c.first != 0 ? j->c.first : j->c.seq + 1,
		.rows = j->c.nth - j->nth_trimmed,
		.bytes = j->c.cum - j->cum_trimmed,
		.oldest = j->c.first_time,
		.newest = j->c.last_time,
		.trimmed = j->trimmed.seq,
		.writable = j->writable,
	};
}

/* ---- trimming ---- */

struct journal_peers *
journal_peer_of(struct journal *j)
{
	return j->peers;
}

uint64_t
journal_confirmed(struct journal *j)
{
	uint64_t least = UINT64_MAX;
	struct journal_peer p;

	for (unsigned i = 0; journal_peer_at(j, i, &p) == 0; i++)
		if (journal_peer_holds(&p) && p.applied < least)
			least = p.applied;
	return least;
}

/* Up to where rows may go: what is confirmed, then what is over the limits. One bounded look. */
static int
find_cut(struct journal *j, uint64_t confirmed, struct pos *cut_out, uint64_t *cum_out,
	uint64_t *rows_out)
{
	struct store_q *q = &j->q[Q_AGES];
	uint64_t now = clock_wall_ns();
	int rc = store_sql_first(q, "i", (uint64_t)TRIM_ROWS);

	*rows_out = 0;
	while (rc > 0) {
		struct pos at = { store_sql_u64(q, 1), store_sql_u64(q, 2),
			store_sql_u64(q, 0) };
		uint64_t time = store_sql_u64(q, 3), cum = store_sql_u64(q, 4);
		uint64_t held = j->c.cum - cum + store_sql_u64(q, 5);
		bool over = j->limits.bytes != 0 && held > j->limits.bytes &&
			    at.seq != j->c.last.seq;
		bool old = j->limits.age_ms != 0 && now > time &&
			   (now - time) / 1000000 > j->limits.age_ms;
		if (at.seq > confirmed && !over && !old)
			break;
		*cut_out = at;
		*cum_out = cum;
		++*rows_out;
		rc = store_sql_next(q);
	}
	store_sql_reset(q);
	return rc < 0 ? rc : 0;
}

static int
mark_behind(struct journal *j, uint64_t cut, journal_behind_fn *behind, void *arg)
{
	struct journal_peer p;

	for (unsigned i = 0; journal_peer_at(j, i, &p) == 0; i++) {
		if (!journal_peer_holds(&p) || p.applied >= cut)
			continue;
		p.state = JOURNAL_PEER_BEHIND;
		int rc = journal_peer_set(j, &p);
		if (rc != 0)
			return rc;
		log_warn("peer is behind the journal, it will be compared peer=%s "
			 "applied=%" PRIu64 " trimmed=%" PRIu64,
			p.name, p.applied, cut);
		if (behind != NULL)
			behind(arg, &p);
	}
	return 0;
}

/*
 * Tombstones stay until every peer that ever had the mailbox has applied the removal. A peer that
 * is compared counts as having applied what was before, but may still have it in its inbox and
 * ask about mailboxes that it makes from there; so they stay for a good while longer.
 */
static uint64_t
tombs_done(struct journal *j, uint64_t cut)
{
	struct journal_peer p;

	for (unsigned i = 0; journal_peer_at(j, i, &p) == 0; i++)
		if (p.state != JOURNAL_PEER_NEVER && p.applied < cut)
			cut = p.applied;
	return cut > TOMBS_KEPT ? cut - TOMBS_KEPT : 0;
}

static int
cut_rows(struct journal *j, struct pos cut, uint64_t cum, uint64_t rows)
{
	uint64_t nth = j->nth_trimmed + rows;
	const struct {
		const char *key;
		uint64_t v;
	} metas[] = { { "trimmed", cut.seq }, { "trimmed_epoch", cut.epoch },
		{ "trimmed_run", cut.run }, { "trimmed_cum", cum },
		{ "trimmed_nth", nth }, { "trimmed_time", j->c.last_time } };
	int rc = store_sql_begin(j->jdb);

	if (rc != 0)
		return rc;
	store_sql_run(&j->q[Q_DELETE], "i", cut.seq);
	for (size_t i = 0; i < sizeof(metas) / sizeof(metas[0]); i++)
		store_sql_run(&j->q[Q_META_PUT], "ti", metas[i].key, metas[i].v);
	store_tomb_trim(j->s, tombs_done(j, cut.seq));
	if ((rc = store_sql_commit(j->jdb)) != 0)
		return rc;
	j->trimmed = cut;
	j->cum_trimmed = cum;
	j->nth_trimmed = nth;
	return load_oldest(j);
}

int
journal_trim(struct journal *j, journal_behind_fn *behind, void *arg, bool *more_out)
{
	uint64_t confirmed = journal_confirmed(j), cum = 0, rows = 0;
	struct pos cut = POS_NONE;
	int rc;

	if (more_out != NULL)
		*more_out = false;
	if (j->in_group)
		return ERR_USAGE;
	if ((rc = journal_peer_save(j->peers, false)) != 0)
		return rc;
	if ((rc = find_cut(j, confirmed, &cut, &cum, &rows)) != 0 || rows == 0)
		return rc;
	if (cut.seq > confirmed && (rc = mark_behind(j, cut.seq, behind, arg)) != 0)
		return rc;
	if ((rc = cut_rows(j, cut, cum, rows)) != 0)
		return rc;
	if (more_out != NULL)
		*more_out = rows == TRIM_ROWS;
	if (rows < TRIM_ROWS)
		store_sql_shrink(j->jdb);
	return 0;
}

/* ---- a peer's position ---- */

const char *
journal_verdict_text(enum journal_verdict v)
{
	static const char *const texts[] = { "stream", "new here", "behind the journal",
		"beyond the journal" };

	return (unsigned)v < 4 ? texts[v] : "unknown";
}

static enum journal_verdict
stream_from(const struct journal *j, uint64_t from, uint64_t *from_out)
{
	if (from <= j->trimmed.seq)
		return JOURNAL_COMPARE_BEHIND;
	*from_out = from;
	return JOURNAL_STREAM;
}

enum journal_verdict
journal_judge(
	struct journal *j, struct pos at, const struct pos *base, uint64_t *from_out)
{
	struct store_q *q = &j->st[Q_RUN_GET];
	uint64_t first = 0, last = 0;
	bool open = false;
	int rc;

	if (pos_is_none(at))
		return JOURNAL_COMPARE_NEW;
	if (at.epoch < j->epoch) {
		/* rows of an older epoch of ours may lie here, but what another node wrote
		 * in between does not */
		if (base == NULL || pos_cmp(at, *base) != 0)
			return JOURNAL_COMPARE_BEHIND;
		q = &j->st[Q_RUN_FIRST];
		rc = store_sql_first(q, "i", j->epoch);
		if (rc > 0)
			first = store_sql_u64(q, 0);
		store_sql_reset(q);
		return rc > 0 ? stream_from(j, first, from_out)
			      : JOURNAL_COMPARE_BEHIND;
	}
	rc = store_sql_first(q, "ii", at.epoch, at.run);
	if (rc > 0) {
		first = store_sql_u64(q, 0);
		last = store_sql_u64(q, 1);
		open = store_sql_u64(q, 2) != 0;
	}
	store_sql_reset(q);
	if (rc <= 0)
		return JOURNAL_COMPARE_BEYOND;
	if (at.epoch == j->epoch && at.run == j->run)
		last = run_end(j);
	else if (open)
		return JOURNAL_COMPARE_BEHIND;
	if (at.seq < first || at.seq > last)
		return JOURNAL_COMPARE_BEYOND;
	return stream_from(j, at.seq + 1, from_out);
}
