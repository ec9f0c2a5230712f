/* The standby's inbox: order, duplicates, recording, quarantine, restarts, kill -9. */
#include "tests/lib/t.h"
#include "meta/base/err.h"
#include "sync/inbox.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define AT(n) ((struct pos){ 1, 1, (n) })

struct rig {
	struct store *s;
	struct inbox *in;
};

static bool
open_rig(struct rig *r)
{
	r->s = NULL;
	r->in = NULL;
	if (store_open(t_tmpdir(), &r->s) == 0 && inbox_open(r->s, &r->in) == 0)
		return true;
	t_fail(__FILE__, __LINE__, "cannot open");
	return false;
}

static void
close_rig(struct rig *r)
{
	inbox_close(r->in);
	store_close(r->s);
}

static int
put(struct inbox *in, uint64_t seq, const char *dir)
{
	struct inbox_item it = { AT(seq), dir, dir, strlen(dir) };

	return inbox_put(in, &it, 1, NULL);
}

static int
join(void *arg, const struct inbox_item *it, enum inbox_state state)
{
	static const char letters[] = "pdah";

	buf_printf(arg, "%d%c", (int)it->pos.seq, letters[state]);
	return it->n == strlen(it->dir) && memcmp(it->bytes, it->dir, it->n) == 0
		       ? 0
		       : ERR_MANGLED;
}

/* The rows that are open, as "1p2h". */
static const char *
rows(struct inbox *in)
{
	static struct buf b = BUF_INIT;

	buf_clear(&b);
	return inbox_walk_open(in, join, &b) == 0 ? buf_str(&b) : "failed";
}

static uint64_t
applied(struct inbox *in)
{
	struct inbox_facts f;

	inbox_facts(in, &f);
	return f.applied.seq;
}

static uint64_t
visible(struct inbox *in)
{
	struct inbox_facts f;

	inbox_facts(in, &f);
	return f.done.seq;
}

TEST(bursts_duplicates_and_order)
{
	struct inbox_item items[] = { { AT(3), "a", "a", 1 }, { AT(4), "b", "b", 1 },
		{ AT(4), "x", "x", 1 }, { { 1, 2, 2 }, "c", "c", 1 } };
	struct inbox_facts f;
	struct buf b = BUF_INIT;
	size_t stored = 9;
	struct rig r;

	CHECK(open_rig(&r));
	CHECK_EQ(inbox_put(r.in, items, 4, &stored), 0);
	CHECK_EQ(stored, 3);
	/* the same again after a reconnect, and one more */
	CHECK_EQ(inbox_put(r.in, items, 4, &stored), 0);
	CHECK_EQ(stored, 0);
	CHECK_EQ(put(r.in, 9, "old run"), 0);
	CHECK_STR(rows(r.in), "3p4p2p");
	inbox_facts(r.in, &f);
	CHECK_EQ(f.received.run, 2);
	CHECK_EQ(f.received.seq, 2);
	CHECK_EQ(f.pending, 3);
	CHECK_EQ(f.bytes, 3);
	CHECK_EQ(inbox_walk_pending(r.in, AT(3), 100, join, &b), 0);
	CHECK_STR(buf_str(&b), "4p2p");
	buf_clear(&b);
	CHECK_EQ(inbox_walk_pending(r.in, POS_NONE, 1, join, &b), 0);
	CHECK_STR(buf_str(&b), "3p");
	buf_fini(&b);
	close_rig(&r);
	CHECK(open_rig(&r));
	CHECK_STR(rows(r.in), "3p4p2p");
	inbox_facts(r.in, &f);
	CHECK_EQ(f.received.run, 2);
	close_rig(&r);
}

static int
whole(void *arg, const struct inbox_item *it, enum inbox_state state)
{
	buf_printf(arg, "%d%d %s %.*s\n", (int)it->pos.seq, state, it->dir, (int)it->n,
		(const char *)it->bytes);
	return 0;
}

static char *
pending(struct inbox *in, uint64_t above, uint64_t max)
{
	struct buf b = BUF_INIT;
	char *text = NULL;

	if (inbox_walk_pending(in, AT(above), max, whole, &b) == 0)
		text = strdup(buf_str(&b));
	buf_fini(&b);
	return text;
}

/* The last rows are also in memory, but not large ones. */
TEST(rows_read_alike_from_memory_and_file)
{
	enum { ROWS = 150, LARGE = 20000, READS = 5 };
	static const uint64_t above[READS] = { 0, 86, 100, 149, 150 };
	static char text[LARGE + 1];
	char *was[READS][2], *is, dir[16];
	struct rig r;

	CHECK(open_rig(&r));
	for (unsigned i = 1; i <= ROWS; i++) {
		snprintf(text, sizeof(text), "%0*u",
			i % 20 == 7 ? LARGE : (int)(i % 50) + 4, i);
		snprintf(dir, sizeof(dir), "box%u", i % 3);
		struct inbox_item it = { AT(i), dir, text, strlen(text) };
		CHECK_EQ(inbox_put(r.in, &it, 1, NULL), 0);
		if (i % 11 == 0)
			CHECK_EQ(inbox_done(r.in, AT(i)), 0);
	}
	inbox_mark(r.in);
	CHECK_EQ(inbox_record(r.in, 1), 0);
	for (unsigned i = 0; i < READS; i++) {
		was[i][0] = pending(r.in, above[i], UINT64_MAX);
		was[i][1] = pending(r.in, above[i], 300);
		CHECK(was[i][0] != NULL && was[i][1] != NULL);
	}
	CHECK(strlen(was[0][0]) > 8 * LARGE && strlen(was[3][0]) > 10);
	CHECK_STR(was[4][0], "");
	close_rig(&r);
	CHECK(open_rig(&r));
	for (unsigned i = 0; i < READS; i++) {
		is = pending(r.in, above[i], UINT64_MAX);
		CHECK_STR(is, was[i][0]);
		free(is);
		is = pending(r.in, above[i], 300);
		CHECK_STR(is, was[i][1]);
		free(is);
		free(was[i][0]);
		free(was[i][1]);
	}
	close_rig(&r);
}

TEST(recording_covers_what_was_done_at_the_mark)
{
	uint64_t mark;
	struct rig r;

	CHECK(open_rig(&r));
	for (uint64_t i = 1; i <= 6; i++)
		CHECK_EQ(put(r.in, i, i % 2 ? "odd" : "even"), 0);
	CHECK_EQ(inbox_done(r.in, AT(7)), ERR_NOTFOUND);
	CHECK_EQ(inbox_done(r.in, AT(2)), 0);
	CHECK_EQ(inbox_done(r.in, AT(2)), 0);
	CHECK_EQ(inbox_done(r.in, AT(1)), 0);
	CHECK_EQ(inbox_done(r.in, AT(4)), 0);
	CHECK_EQ(visible(r.in), 2);
	CHECK_EQ(applied(r.in), 0);
	mark = inbox_mark(r.in);
	/* done while the spool is being synced: the next mark's */
	CHECK_EQ(inbox_done(r.in, AT(3)), 0);
	CHECK_EQ(inbox_record(r.in, mark), 0);
	CHECK_EQ(applied(r.in), 2);
	CHECK_EQ(visible(r.in), 4);
	CHECK_STR(rows(r.in), "5p6p");
	/* a crash now: 3 comes again, 4 does not */
	close_rig(&r);
	CHECK(open_rig(&r));
	CHECK_STR(rows(r.in), "3p5p6p");
	CHECK_EQ(applied(r.in), 2);
	CHECK_EQ(inbox_done(r.in, AT(3)), 0);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(applied(r.in), 4);
	CHECK_EQ(inbox_done(r.in, AT(5)), 0);
	CHECK_EQ(inbox_done(r.in, AT(6)), 0);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(applied(r.in), 6);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	close_rig(&r);
	CHECK(open_rig(&r));
	CHECK_STR(rows(r.in), "");
	CHECK_EQ(applied(r.in), 6);
	CHECK_EQ(put(r.in, 6, "again"), 0);
	CHECK_STR(rows(r.in), "");
	close_rig(&r);
}

TEST(removals_wait_for_all_before_them)
{
	struct rig r;

	CHECK(open_rig(&r));
	CHECK(inbox_settled_before(r.in, AT(1)));
	for (uint64_t i = 1; i <= 4; i++)
		CHECK_EQ(put(r.in, i, i == 2 ? "bad" : "good"), 0);
	CHECK(inbox_settled_before(r.in, AT(1)));
	CHECK(!inbox_settled_before(r.in, AT(2)));
	CHECK_EQ(inbox_done(r.in, AT(3)), 0);
	CHECK_EQ(inbox_done(r.in, AT(1)), 0);
	CHECK(inbox_settled_before(r.in, AT(2)));
	CHECK(!inbox_settled_before(r.in, AT(4)));
	/* a folder's move waits for more: that no crash brings them back */
	CHECK(!inbox_recorded_upto(r.in, AT(1)));
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK(inbox_recorded_upto(r.in, AT(1)));
	CHECK(!inbox_recorded_upto(r.in, AT(3)));
	struct inbox_quarantine q = { .dir = "bad", .check = "c", .text = "t" };
	CHECK_EQ(inbox_quarantine_put(r.in, &q), 0);
	CHECK(inbox_settled_before(r.in, AT(4)));
	CHECK(inbox_recorded_upto(r.in, AT(3)));
	CHECK(!inbox_recorded_upto(r.in, AT(4)));
	CHECK_EQ(inbox_quarantine_release(r.in, "bad", true), 0);
	CHECK(!inbox_settled_before(r.in, AT(4)));
	close_rig(&r);
}

static int
join_quarantine(void *arg, const struct inbox_quarantine *q)
{
	buf_printf(arg, "%s/%u %s %s %d " POS_FMT ";", q->dir, (unsigned)q->uid,
		q->check, q->text, (int)q->since, POS_ARG(q->pos));
	return 0;
}

TEST(quarantine_holds_one_mailbox_alone)
{
	struct inbox_quarantine q = { "bad", 7, "guid", "wrong; repair it", 5, AT(2) };
	struct buf b = BUF_INIT;
	struct rig r;

	CHECK(open_rig(&r));
	for (uint64_t i = 1; i <= 4; i++)
		CHECK_EQ(put(r.in, i, i % 2 ? "good" : "bad"), 0);
	CHECK_EQ(inbox_quarantine_put(r.in, &q), 0);
	q.since = 6;
	q.text = "other";
	CHECK_EQ(inbox_quarantine_put(r.in, &q), 0);
	CHECK_EQ(inbox_quarantine_walk(r.in, join_quarantine, &b), 0);
	CHECK_STR(buf_str(&b), "bad/7 guid other 5 1/1/2;");
	CHECK_EQ(put(r.in, 5, "bad"), 0);
	CHECK_EQ(put(r.in, 6, "good"), 0);
	CHECK_STR(rows(r.in), "1p2h3p4h5h6p");
	CHECK_EQ(inbox_done(r.in, AT(1)), 0);
	CHECK_EQ(inbox_done(r.in, AT(3)), 0);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(applied(r.in), 5);
	close_rig(&r);
	/* a restart does not forget, nor let the held ones through */
	CHECK(open_rig(&r));
	CHECK(inbox_quarantined(r.in, "bad") && !inbox_quarantined(r.in, "good"));
	CHECK_EQ(inbox_quarantine_count(r.in), 1);
	CHECK_STR(rows(r.in), "2h4h5h6p");
	CHECK_EQ(applied(r.in), 5);
	buf_clear(&b);
	CHECK_EQ(inbox_walk_pending(r.in, POS_NONE, 100, join, &b), 0);
	CHECK_STR(buf_str(&b), "6p");
	CHECK_EQ(inbox_quarantine_release(r.in, "good", true), ERR_NOTFOUND);
	CHECK_EQ(inbox_quarantine_release(r.in, "bad", true), 0);
	CHECK_STR(rows(r.in), "2p4p5p6p");
	/* what was told as passed is not taken back */
	CHECK_EQ(applied(r.in), 5);
	CHECK_EQ(inbox_quarantine_put(r.in, &q), 0);
	CHECK_EQ(inbox_quarantine_release(r.in, "bad", false), 0);
	CHECK_STR(rows(r.in), "6p");
	CHECK_EQ(applied(r.in), 5);
	close_rig(&r);
	CHECK(open_rig(&r));
	CHECK_STR(rows(r.in), "6p");
	CHECK_EQ(inbox_done(r.in, AT(6)), 0);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(applied(r.in), 6);
	buf_fini(&b);
	close_rig(&r);
}

TEST(dropping_one_mailbox_leaves_the_others_rows)
{
	struct inbox_quarantine a = { .dir = "a", .check = "c", .text = "t" },
				b = { .dir = "b", .check = "c", .text = "t" };
	struct rig r;

	CHECK(open_rig(&r));
	CHECK_EQ(inbox_quarantine_put(r.in, &a), 0);
	CHECK_EQ(inbox_quarantine_put(r.in, &b), 0);
	for (uint64_t i = 1; i <= 9; i++)
		CHECK_EQ(put(r.in, i, i % 3 == 0 ? "a" : i % 3 == 1 ? "b" : "c"), 0);
	CHECK_EQ(inbox_done(r.in, AT(5)), 0);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(inbox_quarantine_release(r.in, "a", false), 0);
	CHECK_STR(rows(r.in), "1h2p4h7h8p");
	CHECK_EQ(inbox_done(r.in, AT(2)), 0);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(applied(r.in), 7);
	close_rig(&r);
	CHECK(open_rig(&r));
	CHECK_STR(rows(r.in), "1h4h7h8p");
	CHECK_EQ(applied(r.in), 7);
	close_rig(&r);
}

TEST(rebase)
{
	struct inbox_quarantine q = { .dir = "b", .check = "c", .text = "t" };
	struct inbox_facts f;
	struct rig r;

	CHECK(open_rig(&r));
	CHECK_EQ(inbox_quarantine_put(r.in, &q), 0);
	CHECK_EQ(put(r.in, 1, "a"), 0);
	CHECK_EQ(put(r.in, 2, "b"), 0);
	CHECK_EQ(inbox_rebase(r.in, AT(50)), ERR_BUSY);
	CHECK_EQ(inbox_done(r.in, AT(1)), 0);
	CHECK_EQ(inbox_rebase(r.in, AT(50)), ERR_BUSY);
	CHECK_EQ(inbox_record(r.in, inbox_mark(r.in)), 0);
	CHECK_EQ(inbox_rebase(r.in, AT(50)), 0);
	CHECK_EQ(put(r.in, 50, "a"), 0);
	CHECK_STR(rows(r.in), "");
	CHECK_EQ(put(r.in, 51, "a"), 0);
	close_rig(&r);
	CHECK(open_rig(&r));
	inbox_facts(r.in, &f);
	CHECK_EQ(f.applied.seq, 50);
	CHECK_EQ(f.received.seq, 51);
	CHECK_STR(rows(r.in), "51p");
	close_rig(&r);
}

TEST(random_order_against_a_model)
{
	enum { N = 400, DIRS = 7 };
	enum inbox_state model[N + 1];
	bool recorded[N + 1], mark_of[N + 1];
	uint64_t next = 1, told = 0;
	struct rig r;

	memset(recorded, 0, sizeof(recorded));
	CHECK(open_rig(&r));
	while (next <= N || told < N) {
		uint64_t seq = 1 + t_rand() % N;
		switch (t_rand() % 8) {
		case 0:
		case 1:
			for (int i = 0; i < 5 && next <= N; i++, next++) {
				char dir[8];
				snprintf(dir, sizeof(dir), "d%d", (int)(next % DIRS));
				CHECK_EQ(put(r.in, next, dir), 0);
				model[next] = INBOX_PENDING;
			}
			break;
		case 2: {
			uint64_t mark = inbox_mark(r.in);
			for (uint64_t i = 1; i < next; i++)
				mark_of[i] = model[i] == INBOX_DONE;
			if (seq < next && model[seq] == INBOX_PENDING) {
				CHECK_EQ(inbox_done(r.in, AT(seq)), 0);
				model[seq] = INBOX_DONE;
			}
			CHECK_EQ(inbox_record(r.in, mark), 0);
			for (uint64_t i = 1; i < next; i++)
				if (mark_of[i])
					model[i] = INBOX_APPLIED;
			break;
		}
		case 3:
			if (t_rand() % 4 != 0)
				break;
			close_rig(&r);
			CHECK(open_rig(&r));
			for (uint64_t i = 1; i < next; i++)
				if (model[i] == INBOX_DONE)
					model[i] = INBOX_PENDING;
			break;
		default:
			/* near the front, or it would take for ever */
			for (uint64_t i = told + 1; i < next && i < told + 20; i++)
				if (model[i] == INBOX_PENDING && t_rand() % 3 == 0) {
					CHECK_EQ(inbox_done(r.in, AT(i)), 0);
					model[i] = INBOX_DONE;
				}
		}
		uint64_t want = 0, want_done = 0;
		while (want + 1 < next && model[want + 1] == INBOX_APPLIED)
			want++;
		want_done = want;
		while (want_done + 1 < next && model[want_done + 1] != INBOX_PENDING)
			want_done++;
		CHECK_EQ(applied(r.in), want);
		CHECK_EQ(visible(r.in), want_done);
		CHECK_EQ(inbox_settled_before(r.in, AT(want_done + 1)), true);
		if (want_done + 1 < next)
			CHECK_EQ(inbox_settled_before(r.in, AT(want_done + 2)), false);
		told = want;
	}
	close_rig(&r);
}

static void
writer(int fd)
{
	struct inbox_facts f;
	struct rig r;
	uint64_t seq;

	if (store_open(t_tmpdir(), &r.s) != 0 || inbox_open(r.s, &r.in) != 0)
		_exit(1);
	inbox_facts(r.in, &f);
	seq = f.received.seq;
	for (;;) {
		struct inbox_item items[4];
		uint64_t told[2];
		size_t n = 1 + t_rand() % 4;
		for (size_t i = 0; i < n; i++)
			items[i] = (struct inbox_item){ AT(++seq), "a", "a", 1 };
		if (inbox_put(r.in, items, n, NULL) != 0)
			_exit(2);
		for (uint64_t i = seq > 10 ? seq - 10 : 1; i <= seq; i++)
			if (t_rand() % 2)
				inbox_done(r.in, AT(i));
		if (inbox_record(r.in, inbox_mark(r.in)) != 0)
			_exit(3);
		told[0] = seq;
		told[1] = applied(r.in);
		if (write(fd, told, sizeof(told)) != sizeof(told))
			_exit(4);
	}
}

struct check {
	uint64_t first, last;
	bool wrong;
};

static int
check_row(void *arg, const struct inbox_item *it, enum inbox_state state)
{
	struct check *c = arg;

	if (c->first == 0)
		c->first = it->pos.seq;
	c->wrong |= it->pos.seq <= c->last || state != INBOX_PENDING;
	c->last = it->pos.seq;
	return 0;
}

TEST(kill_9_gives_back_what_was_not_recorded)
{
	uint64_t told[2], got[2];
	struct rig r;

	t_tmpdir(); /* the children's as well */
	for (int round = 0; round < 30; round++) {
		struct check c = { 0, 0, false };
		struct inbox_facts f;
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
		CHECK_EQ(read(fds[0], told, sizeof(told)), sizeof(told));
		usleep((useconds_t)(t_rand() % 4000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (read(fds[0], got, sizeof(got)) == sizeof(got))
			memcpy(told, got, sizeof(got));
		close(fds[0]);
		CHECK(open_rig(&r));
		inbox_facts(r.in, &f);
		CHECK(f.received.seq >= told[0]);
		CHECK(f.applied.seq >= told[1]);
		CHECK_EQ(f.done_rows, 0);
		CHECK_EQ(inbox_walk_pending(r.in, POS_NONE, UINT64_MAX, check_row, &c),
			0);
		CHECK(!c.wrong);
		/* the oldest that is not recorded is the one behind "applied" */
		CHECK_EQ(c.first, f.pending ? f.applied.seq + 1 : 0);
		CHECK(c.last <= f.received.seq);
		close_rig(&r);
	}
}

T_MAIN
