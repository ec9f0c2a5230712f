/*
 * The journal: groups, runs, peers, trimming, judging; kill -9 of a writer; how fast it is:
 * TWINSPOOL_BENCH=1 build/tests/unit/test_journal bench
 */
#include "tests/lib/t.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "sync/journal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct rig {
	struct store *s;
	struct journal *j;
};

static struct journal_limits no_limits;

/* Syncs of state.db's log: SQLite calls these. */
static unsigned state_syncs;

static void
count_sync(int fd)
{
	char link[40], path[400];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return;
	path[n] = '\0';
	state_syncs += strstr(path, "/state.db-wal") != NULL;
}

int
fsync(int fd)
{
	count_sync(fd);
	return (int)syscall(SYS_fsync, fd);
}

int
fdatasync(int fd)
{
	count_sync(fd);
	return (int)syscall(SYS_fdatasync, fd);
}

/* Runs are numbered by the clock: where it stands still, one by one. */
static uint64_t
no_time(void)
{
	return 1;
}

static bool
open_rig(struct rig *r, const struct journal_limits *limits)
{
	if (limits->age_ms == 0)
		clock_set_source(no_time);
	r->s = NULL;
	r->j = NULL;
	if (store_open(t_tmpdir(), &r->s) == 0 &&
		journal_open(r->s, limits, &r->j) == 0)
		return true;
	t_fail(__FILE__, __LINE__, "cannot open");
	return false;
}

static void
close_rig(struct rig *r, bool clean)
{
	journal_close(r->j);
	if (clean && store_set_clean(r->s, true) != 0)
		t_fail(__FILE__, __LINE__, "cannot mark clean");
	store_close(r->s);
}

static int
append(struct journal *j, const char *text, uint64_t *seq_out)
{
	struct journal_entry e = { .dir = "user/a",
		.bytes = text,
		.n = strlen(text),
		.uniqueid = "id",
		.state = text,
		.state_n = strlen(text) };

	return journal_append(j, &e, seq_out);
}

static bool
append_n(struct journal *j, int n)
{
	uint64_t seq;

	for (int i = 0; i < n; i++)
		if (append(j, "batch", &seq) != 0)
			return false;
	return true;
}

static int
join(void *arg, const struct journal_row *row)
{
	buf_printf(arg, POS_FMT "=%.*s ", POS_ARG(row->pos), (int)row->n,
		(const char *)row->bytes);
	return strcmp(row->dir, "user/a") == 0 && row->time > 0 ? 0 : ERR_MANGLED;
}

static const char *
read_all(struct journal *j, uint64_t from, uint64_t max, uint64_t *next)
{
	static struct buf b = BUF_INIT;

	buf_clear(&b);
	if (journal_read(j, from, max, join, &b, next) != 0)
		return "failed";
	return buf_str(&b);
}

struct last {
	struct buf *state;
	uint64_t *seq;
};

static int
take_last(void *arg, const struct store_mbox *m)
{
	struct last *l = arg;

	buf_clear(l->state);
	buf_put(l->state, m->state, m->n);
	*l->seq = m->seq;
	return 0;
}

/* The only mailbox's, and the batch that it is the end of. */
static int
state_of_mbox(struct store *s, struct buf *state_out, uint64_t *seq_out)
{
	struct last l = { state_out, seq_out };

	*seq_out = 0;
	return store_mbox_walk(s, "", 1, take_last, &l);
}

TEST(groups_are_one_or_nothing)
{
	struct journal_facts f;
	uint64_t seq = 0, next;
	struct buf b = BUF_INIT;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(append(r.j, "x", &seq), ERR_ROLE);
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(append(r.j, "one", &seq), 0);
	CHECK_EQ(seq, 1);
	CHECK_EQ(journal_begin(r.j), 0);
	CHECK_EQ(append(r.j, "two", &seq), 0);
	CHECK_EQ(append(r.j, "three", &seq), 0);
	CHECK_EQ(seq, 3);
	CHECK_EQ(journal_read(r.j, 1, 100, join, &b, &next), ERR_USAGE);
	CHECK_EQ(store_mbox_drop(r.s, "user/a", 3), 0);
	journal_rollback(r.j);
	CHECK_STR(read_all(r.j, 1, 10000, &next), "1/1/1=one ");
	CHECK_EQ(next, 2);
	CHECK_EQ(state_of_mbox(r.s, &b, &seq), 0);
	CHECK_STR(buf_str(&b), "one");
	CHECK_EQ(seq, 1);
	journal_facts(r.j, &f);
	CHECK_EQ(f.last.seq, 1);
	CHECK_EQ(f.rows, 1);
	CHECK_EQ(journal_begin(r.j), 0);
	CHECK_EQ(append(r.j, "two", &seq), 0);
	CHECK_EQ(append(r.j, "three", &seq), 0);
	CHECK_EQ(journal_commit(r.j), 0);
	CHECK_EQ(journal_commit(r.j), ERR_USAGE);
	CHECK_STR(read_all(r.j, 1, 10000, &next), "1/1/1=one 1/1/2=two 1/1/3=three ");
	CHECK_EQ(next, 4);
	CHECK_STR(read_all(r.j, 2, 1, &next), "1/1/2=two ");
	CHECK_EQ(next, 3);
	CHECK_STR(read_all(r.j, 4, 1, &next), "");
	CHECK_EQ(next, 4);
	CHECK_EQ(state_of_mbox(r.s, &b, &seq), 0);
	CHECK_STR(buf_str(&b), "three");
	CHECK_EQ(seq, 3);
	buf_fini(&b);
	close_rig(&r, false);
}

/* The last rows are also in memory, but not large ones. */
TEST(rows_read_alike_from_memory_and_file)
{
	enum { ROWS = 200, LARGE = 20000 };
	static const uint64_t from[] = { 1, 100, 136, 137, 150, 199, 200, 201 };
	enum { READS = sizeof(from) / sizeof(from[0]) };
	char *was[READS][2], text[LARGE + 1];
	uint64_t seq, next, nexts[READS];
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	for (unsigned i = 0; i < ROWS; i++) {
		snprintf(text, sizeof(text), "%0*u",
			i % 9 == 4 ? LARGE : (int)(i % 50) + 4, i);
		CHECK_EQ(append(r.j, text, &seq), 0);
	}
	for (unsigned i = 0; i < READS; i++) {
		was[i][0] = strdup(read_all(r.j, from[i], UINT64_MAX, &next));
		CHECK_EQ(next, 201);
		was[i][1] = strdup(read_all(r.j, from[i], 300, &nexts[i]));
	}
	close_rig(&r, false);
	CHECK(open_rig(&r, &no_limits));
	for (unsigned i = 0; i < READS; i++) {
		CHECK_STR(read_all(r.j, from[i], UINT64_MAX, &next), was[i][0]);
		CHECK_STR(read_all(r.j, from[i], 300, &next), was[i][1]);
		CHECK_EQ(next, nexts[i]);
		free(was[i][0]);
		free(was[i][1]);
	}
	close_rig(&r, false);
}

TEST(a_failure_inside_a_group_undoes_it)
{
	struct journal_facts f;
	struct store_mbox bad = { "d", "i", 1, NULL, (size_t)STORE_MAX_BLOB + 1 };
	static char id[STORE_MAX_ID + 1];
	uint64_t seq, next;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(journal_begin(r.j), 0);
	CHECK_EQ(append(r.j, "one", &seq), 0);
	/* refused before it touches anything: the group goes on */
	CHECK_EQ(store_mbox_put(r.s, &bad), ERR_LIMIT);
	memset(id, 'x', STORE_MAX_ID);
	struct journal_entry e = { "d", "b", 1, id, "s", 1 };
	CHECK_EQ(journal_append(r.j, &e, &seq), ERR_LIMIT);
	CHECK_EQ(append(r.j, "two", &seq), 0);
	CHECK_EQ(seq, 2);
	CHECK_EQ(journal_commit(r.j), 0);
	journal_facts(r.j, &f);
	CHECK_EQ(f.rows, 2);
	CHECK_STR(read_all(r.j, 1, 10000, &next), "1/1/1=one 1/1/2=two ");
	close_rig(&r, false);
}

TEST(runs_follow_starts)
{
	struct journal_facts f;
	uint64_t seq, next;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 2));
	close_rig(&r, true);
	/* clean: another run, for this folder may be a copy of an older one; seq goes on */
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(append(r.j, "batch", &seq), 0);
	CHECK_EQ(seq, 3);
	close_rig(&r, false);
	/* unclean: another run; seq goes on */
	CHECK(open_rig(&r, &no_limits));
	CHECK(!store_was_clean(r.s));
	journal_facts(r.j, &f);
	CHECK_EQ(f.last.seq, 3);
	CHECK_EQ(f.run, 2);
	CHECK(!f.writable);
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(append(r.j, "batch", &seq), 0);
	CHECK_EQ(seq, 4);
	CHECK_STR(read_all(r.j, 3, 10000, &next), "1/2/3=batch 1/3/4=batch ");
	/* another epoch, above a floor */
	CHECK_EQ(journal_resume(r.j, 3, 100), 0);
	CHECK_EQ(append(r.j, "batch", &seq), 0);
	CHECK_EQ(seq, 101);
	CHECK_EQ(journal_resume(r.j, 2, 0), ERR_USAGE);
	close_rig(&r, true);
	/* clean, but the floor has risen meanwhile */
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 3, 200), 0);
	CHECK_EQ(append(r.j, "batch", &seq), 0);
	CHECK_EQ(seq, 201);
	journal_facts(r.j, &f);
	CHECK_EQ(f.last.epoch, 3);
	CHECK_EQ(f.last.run, 2);
	close_rig(&r, false);
}

TEST(a_lost_journal_does_not_repeat_seqs)
{
	struct journal_peer p = { .name = "b",
		.state = JOURNAL_PEER_STREAMING,
		.epoch = 1,
		.run = 1,
		.received = 5,
		.flushed = 5,
		.applied = 4 };
	char path[400];
	uint64_t seq, from = 0;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 5));
	CHECK_EQ(journal_peer_set(r.j, &p), 0);
	close_rig(&r, true);
	snprintf(path, sizeof(path), "%s/journal.db", t_tmpdir());
	CHECK_EQ(unlink(path), 0);
	t_expect_log("is new or not the one");
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(append(r.j, "batch", &seq), 0);
	CHECK_EQ(seq, 6);
	/* the peer holds rows that are lost; our spool has what was in them */
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 1, 5 }, NULL, &from),
		JOURNAL_COMPARE_BEHIND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 1, 7 }, NULL, &from),
		JOURNAL_COMPARE_BEHIND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 3, 1 }, NULL, &from),
		JOURNAL_COMPARE_BEYOND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 2, 6 }, NULL, &from),
		JOURNAL_STREAM);
	CHECK_EQ(from, 7);
	close_rig(&r, false);
}

static int behind_calls;

static void
on_behind(void *arg, const struct journal_peer *p)
{
	behind_calls++;
	snprintf(arg, JOURNAL_NAME_MAX, "%s", p->name);
}

static struct journal_peer
peer(const char *name, enum journal_peer_state state, uint64_t applied)
{
	struct journal_peer p = { .state = state,
		.epoch = 1,
		.run = 1,
		.received = applied,
		.flushed = applied,
		.applied = applied };

	snprintf(p.name, sizeof(p.name), "%s", name);
	return p;
}

TEST(peers_are_kept_in_order_and_over_restarts)
{
	struct journal_peer p = peer("m", JOURNAL_PEER_NEVER, 0), back;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_peer_set(r.j, &p), 0);
	p = peer("z", JOURNAL_PEER_STREAMING, 1);
	CHECK_EQ(journal_peer_set(r.j, &p), 0);
	p = peer("a", JOURNAL_PEER_COMPARING, 2);
	CHECK_EQ(journal_peer_set(r.j, &p), 0);
	p.applied = 9;
	CHECK_EQ(journal_peer_set(r.j, &p), 0);
	CHECK_EQ(journal_confirmed(r.j), 1);
	p.name[0] = '\0';
	CHECK_EQ(journal_peer_set(r.j, &p), ERR_USAGE);
	close_rig(&r, false);
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_peer_at(r.j, 0, &back), 0);
	CHECK_STR(back.name, "a");
	CHECK_EQ(back.applied, 9);
	CHECK_EQ(back.state, JOURNAL_PEER_COMPARING);
	CHECK_EQ(journal_peer_at(r.j, 2, &back), 0);
	CHECK_STR(back.name, "z");
	CHECK_EQ(journal_peer_at(r.j, 3, &back), ERR_NOTFOUND);
	CHECK_EQ(journal_peer_forget(r.j, "a"), 0);
	CHECK_EQ(journal_peer_forget(r.j, "a"), ERR_NOTFOUND);
	CHECK_EQ(journal_peer_get(r.j, "m", &back), 0);
	for (int i = 0; i < JOURNAL_PEERS_MAX - 2; i++) {
		char name[16];
		snprintf(name, sizeof(name), "p%d", i);
		p = peer(name, JOURNAL_PEER_NEVER, 0);
		CHECK_EQ(journal_peer_set(r.j, &p), 0);
	}
	p = peer("onemore", JOURNAL_PEER_NEVER, 0);
	CHECK_EQ(journal_peer_set(r.j, &p), ERR_LIMIT);
	close_rig(&r, false);
}

TEST(trim_waits_for_every_peer)
{
	struct journal_peer a = peer("a", JOURNAL_PEER_STREAMING, 6),
			    b = peer("b", JOURNAL_PEER_COMPARING, 4),
			    c = peer("c", JOURNAL_PEER_NEVER, 0);
	struct journal_facts f;
	uint64_t next, bytes;
	char who[JOURNAL_NAME_MAX] = "";
	struct rig r;

	behind_calls = 0;
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 10));
	CHECK_EQ(store_mbox_drop(r.s, "user/a", 3), 0);
	journal_facts(r.j, &f);
	bytes = f.bytes;
	CHECK_EQ(journal_peer_set(r.j, &a), 0);
	CHECK_EQ(journal_peer_set(r.j, &b), 0);
	CHECK_EQ(journal_peer_set(r.j, &c), 0);
	CHECK_EQ(journal_trim(r.j, on_behind, who, NULL), 0);
	journal_facts(r.j, &f);
	CHECK_EQ(f.first, 5);
	CHECK_EQ(f.rows, 6);
	CHECK_EQ(f.bytes, bytes * 6 / 10);
	CHECK_EQ(f.trimmed, 4);
	CHECK_EQ(behind_calls, 0);
	CHECK_EQ(store_tomb_get(r.s, "user/a", "id", NULL), 0); /* for a good while */
	CHECK_EQ(journal_read(r.j, 4, 1, join, NULL, &next), ERR_GONE);
	b.applied = 10;
	a.applied = 10;
	CHECK_EQ(journal_peer_set(r.j, &a), 0);
	CHECK_EQ(journal_peer_set(r.j, &b), 0);
	CHECK_EQ(journal_trim(r.j, on_behind, who, NULL), 0);
	journal_facts(r.j, &f);
	CHECK_EQ(f.first, 11);
	CHECK_EQ(f.rows, 0);
	CHECK_EQ(f.bytes, 0);
	CHECK_EQ(f.last.seq, 10);
	close_rig(&r, true);
	/* an empty journal still knows where it was */
	CHECK(open_rig(&r, &no_limits));
	journal_facts(r.j, &f);
	CHECK_EQ(f.last.seq, 10);
	CHECK_EQ(f.last.run, 1);
	CHECK(store_was_clean(r.s));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 1));
	journal_facts(r.j, &f);
	CHECK_EQ(f.last.seq, 11);
	CHECK_EQ(f.bytes, bytes / 10);
	close_rig(&r, false);
}

TEST(over_the_size_limit_a_peer_falls_behind)
{
	struct journal_peer a = peer("a", JOURNAL_PEER_STREAMING, 2), back;
	struct journal_limits limits = { .bytes = 500 };
	char who[JOURNAL_NAME_MAX] = "";
	struct journal_facts f;
	uint64_t from = 0;
	struct rig r;

	behind_calls = 0;
	CHECK(open_rig(&r, &limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(journal_peer_set(r.j, &a), 0);
	CHECK(append_n(r.j, 20));
	CHECK_EQ(store_mbox_drop(r.s, "user/a", 3), 0);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 1, 2 }, NULL, &from),
		JOURNAL_STREAM);
	CHECK_EQ(from, 3);
	t_expect_log("behind the journal");
	CHECK_EQ(journal_trim(r.j, on_behind, who, NULL), 0);
	CHECK_STR(who, "a");
	CHECK_EQ(behind_calls, 1);
	journal_facts(r.j, &f);
	CHECK(f.bytes <= 500 && f.rows == 6);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 1, 2 }, NULL, &from),
		JOURNAL_COMPARE_BEHIND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 1, f.trimmed }, NULL, &from),
		JOURNAL_STREAM);
	/* it does not know of the removal yet */
	CHECK_EQ(store_tomb_get(r.s, "user/a", "id", NULL), 0);
	/* said once; a peer behind holds nothing */
	CHECK_EQ(journal_trim(r.j, on_behind, who, NULL), 0);
	CHECK_EQ(behind_calls, 1);
	journal_facts(r.j, &f);
	CHECK_EQ(f.rows, 0);
	close_rig(&r, false);
	CHECK(open_rig(&r, &limits));
	CHECK_EQ(journal_peer_get(r.j, "a", &back), 0);
	CHECK_EQ(back.state, JOURNAL_PEER_BEHIND);
	close_rig(&r, false);
}

static uint64_t now_us = 1000000000000000;

static uint64_t
test_clock(void)
{
	return now_us;
}

TEST(over_the_age_limit_too)
{
	struct journal_peer a = peer("a", JOURNAL_PEER_STREAMING, 0);
	struct journal_limits limits = { .age_ms = 60000 };
	struct journal_facts f;
	struct rig r;

	clock_set_source(test_clock);
	CHECK(open_rig(&r, &limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(journal_peer_set(r.j, &a), 0);
	CHECK(append_n(r.j, 3));
	now_us += 50 * 1000000;
	CHECK(append_n(r.j, 3));
	CHECK_EQ(journal_trim(r.j, NULL, NULL, NULL), 0);
	journal_facts(r.j, &f);
	CHECK_EQ(f.rows, 6);
	now_us += 20 * 1000000;
	t_expect_log("behind the journal");
	CHECK_EQ(journal_trim(r.j, NULL, NULL, NULL), 0);
	journal_facts(r.j, &f);
	CHECK_EQ(f.rows, 3);
	CHECK_EQ(f.first, 4);
	close_rig(&r, false);
	clock_set_source(NULL);
}

TEST(trim_goes_in_bounded_pieces)
{
	struct journal_peer a = peer("a", JOURNAL_PEER_STREAMING, 10000);
	struct journal_facts f;
	bool more = false;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK_EQ(journal_begin(r.j), 0);
	CHECK(append_n(r.j, 10000));
	CHECK_EQ(journal_commit(r.j), 0);
	CHECK_EQ(journal_peer_set(r.j, &a), 0);
	CHECK_EQ(journal_trim(r.j, NULL, NULL, &more), 0);
	journal_facts(r.j, &f);
	CHECK(more && f.rows > 0 && f.rows < 10000);
	while (more)
		CHECK_EQ(journal_trim(r.j, NULL, NULL, &more), 0);
	journal_facts(r.j, &f);
	CHECK_EQ(f.rows, 0);
	close_rig(&r, false);
}

TEST(judge)
{
	struct pos base = { 1, 4, 90 };
	uint64_t from = 0;
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 1, 1 }, NULL, &from),
		JOURNAL_COMPARE_BEYOND);
	/* promoted at base; two runs, of 3 and 2 batches */
	CHECK_EQ(journal_resume(r.j, 2, 90), 0);
	CHECK_EQ(journal_judge(r.j, POS_NONE, &base, &from), JOURNAL_COMPARE_NEW);
	CHECK_EQ(journal_judge(r.j, base, &base, &from), JOURNAL_STREAM);
	CHECK_EQ(from, 91);
	CHECK_EQ(journal_judge(r.j, base, NULL, &from), JOURNAL_COMPARE_BEHIND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 1, 4, 89 }, &base, &from),
		JOURNAL_COMPARE_BEHIND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 1, 91 }, &base, &from),
		JOURNAL_COMPARE_BEYOND);
	CHECK(append_n(r.j, 3));
	close_rig(&r, false);
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 2, 0), 0);
	CHECK(append_n(r.j, 2));
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 1, 92 }, NULL, &from),
		JOURNAL_STREAM);
	CHECK_EQ(from, 93);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 1, 93 }, NULL, &from),
		JOURNAL_STREAM);
	CHECK_EQ(from, 94);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 1, 94 }, NULL, &from),
		JOURNAL_COMPARE_BEYOND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 2, 95 }, NULL, &from),
		JOURNAL_STREAM);
	CHECK_EQ(from, 96);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 2, 96 }, NULL, &from),
		JOURNAL_COMPARE_BEYOND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 3, 95 }, NULL, &from),
		JOURNAL_COMPARE_BEYOND);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 3, 1, 1 }, NULL, &from),
		JOURNAL_COMPARE_BEYOND);
	/* what was ours in an older epoch misses what others wrote in between */
	CHECK_EQ(journal_resume(r.j, 4, 500), 0);
	CHECK_EQ(journal_judge(r.j, (struct pos){ 2, 2, 95 }, &base, &from),
		JOURNAL_COMPARE_BEHIND);
	close_rig(&r, false);
}

/* A writer that tells in a pipe what it was answered, until it is killed. */
static void
writer(int fd)
{
	struct store *s;
	struct journal *j;
	uint64_t seq = 0;

	clock_set_source(no_time);
	if (store_open(t_tmpdir(), &s) != 0 || journal_open(s, &no_limits, &j) != 0 ||
		journal_resume(j, 1, 0) != 0)
		_exit(1);
	for (;;) {
		int n = 1 + (int)(t_rand() % 5);
		if (journal_begin(j) != 0)
			_exit(2);
		for (int i = 0; i < n; i++) {
			char text[600];
			memset(text, 'b', sizeof(text));
			snprintf(text, sizeof(text), "%llu",
				(unsigned long long)t_rand() % 1000);
			if (append(j, text, &seq) != 0)
				_exit(3);
		}
		if (journal_commit(j) != 0)
			_exit(4);
		if (write(fd, &seq, sizeof(seq)) != sizeof(seq))
			_exit(5);
	}
}

struct check {
	uint64_t last, rows;
	bool wrong;
	char text[32];
};

static int
check_row(void *arg, const struct journal_row *row)
{
	struct check *c = arg;

	c->wrong |= row->pos.seq != c->last + 1;
	c->last = row->pos.seq;
	c->rows++;
	snprintf(c->text, sizeof(c->text), "%.*s", (int)row->n,
		(const char *)row->bytes);
	return 0;
}

TEST(kill_9_of_a_writer_loses_nothing_that_was_answered)
{
	struct journal_facts f;
	uint64_t told = 0, seq, mbox_seq;
	struct rig r;

	t_tmpdir(); /* the children's as well */
	for (int round = 0; round < 40; round++) {
		struct buf b = BUF_INIT;
		struct check c = { 0 };
		int fds[2];
		CHECK_EQ(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			for (int i = 0; i < round; i++)
				t_rand();
			close(fds[0]);
			writer(fds[1]);
		}
		close(fds[1]);
		/* it is writing; then any moment will do */
		CHECK_EQ(read(fds[0], &seq, sizeof(seq)), sizeof(seq));
		usleep((useconds_t)(t_rand() % 4000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		told = seq;
		while (read(fds[0], &seq, sizeof(seq)) == sizeof(seq))
			told = seq;
		close(fds[0]);
		CHECK(open_rig(&r, &no_limits));
		CHECK(!store_was_clean(r.s));
		journal_facts(r.j, &f);
		CHECK(f.last.seq >= told);
		CHECK_EQ(f.run, round + 1);
		uint64_t next;
		CHECK_EQ(journal_read(r.j, 1, UINT64_MAX, check_row, &c, &next), 0);
		CHECK(!c.wrong);
		CHECK_EQ(c.last, f.last.seq);
		CHECK_EQ(c.rows, f.rows);
		/* the mailbox's state is the one of the last batch */
		CHECK_EQ(state_of_mbox(r.s, &b, &mbox_seq), 0);
		CHECK_EQ(mbox_seq, f.last.seq);
		CHECK_STR(buf_str(&b), c.text);
		buf_fini(&b);
		close_rig(&r, false);
	}
}

TEST(bench)
{
	static const int groups[] = { 1, 8, 64 };
	struct rig r;

	if (getenv("TWINSPOOL_BENCH") == NULL) {
		printf("# asked for by TWINSPOOL_BENCH=1\n");
		return;
	}
	CHECK(open_rig(&r, &no_limits));
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	for (int g = 0; g < 3; g++) {
		static char batch[200], state[400];
		uint64_t start = clock_us(), seq, took;
		int n = 0;
		for (; (took = clock_us() - start) < 2000000; n += groups[g]) {
			CHECK_EQ(journal_begin(r.j), 0);
			for (int i = 0; i < groups[g]; i++) {
				char dir[64];
				snprintf(dir, sizeof(dir), "domain/e/example/user/u%d",
					(int)(t_rand() % 5000));
				struct journal_entry e = { dir, batch, sizeof(batch),
					"0123456789abcdef01234567", state,
					sizeof(state) };
				CHECK_EQ(journal_append(r.j, &e, &seq), 0);
			}
			CHECK_EQ(journal_commit(r.j), 0);
		}
		printf("# groups of %2d: %.0f appends/s (200 B and 400 B of state)\n",
			groups[g], n * 1e6 / (double)took);
	}
	close_rig(&r, false);
}

/* A state folder that was put back from a copy does not use the numbers of the life after it. */
TEST(a_copy_has_runs_of_its_own)
{
	struct journal_facts lost, f;
	uint64_t from;
	char cmd[1000];
	struct rig r;

	CHECK(open_rig(&r, &no_limits));
	clock_set_source(NULL);
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 2));
	close_rig(&r, true);
	const char *dir = t_tmpdir();
	snprintf(cmd, sizeof(cmd), "mkdir %s/copy && cp %s/*.db* %s/copy", dir, dir,
		dir);
	CHECK_EQ(system(cmd), 0);
	CHECK(open_rig(&r, &no_limits));
	clock_set_source(NULL);
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 1));
	journal_facts(r.j, &lost);
	close_rig(&r, true);
	snprintf(cmd, sizeof(cmd), "rm %s/*.db*; cp %s/copy/* %s", dir, dir, dir);
	CHECK_EQ(system(cmd), 0);
	usleep(2000);
	CHECK(open_rig(&r, &no_limits));
	clock_set_source(NULL);
	CHECK_EQ(journal_resume(r.j, 1, 0), 0);
	CHECK(append_n(r.j, 5));
	journal_facts(r.j, &f);
	CHECK(f.run > lost.run);
	CHECK_EQ(journal_judge(r.j, lost.last, NULL, &from), JOURNAL_COMPARE_BEYOND);
	close_rig(&r, false);
}

/* Before it nothing can be appended (ERR_ROLE), so this is the order of the two. */
TEST(a_run_is_synced_before_its_first_append)
{
	uint64_t seq;
	struct rig r;

	for (int start = 0; start < 2; start++) {
		CHECK(open_rig(&r, &no_limits));
		CHECK_EQ(append(r.j, "batch", &seq), ERR_ROLE);
		state_syncs = 0;
		CHECK_EQ(journal_resume(r.j, 1, 0), 0);
		CHECK(state_syncs > 0);
		CHECK_EQ(append(r.j, "batch", &seq), 0);
		close_rig(&r, false);
	}
}

T_MAIN
