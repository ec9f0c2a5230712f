/* The table of those who wait for the peers: who is answered when, and what is done alone. */
#include "sync/level.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <string.h>

static uint64_t now_us;

static uint64_t
fake_us(void)
{
	return now_us;
}

static void
later(uint64_t ms)
{
	now_us += ms * 1000;
}

struct answer {
	unsigned times;
	int code;
};

static void
answered(void *arg, int code)
{
	struct answer *a = arg;

	a->times++;
	a->code = code;
}

static struct level *
table(bool refuse, unsigned n_peers)
{
	struct level_conf c = { .level = { SYNC_FLUSHED, SYNC_LOCAL, SYNC_APPLIED },
		.refuse = refuse,
		.limit_ms = 1000,
		.n_peers = n_peers };
	struct level *l = NULL;

	now_us = 1000000;
	clock_set_source(fake_us);
	if (level_open(&c, &l) != 0)
		t_fail(__FILE__, __LINE__, "no table");
	return l;
}

static void
confirm(struct level *l, unsigned peer, uint64_t received, uint64_t flushed,
	uint64_t applied)
{
	const uint64_t upto[SYNC_LEVELS] = { 0, received, flushed, applied };

	level_confirmed(l, peer, upto);
}

static enum sync_level_state
state(struct level *l)
{
	struct sync_level_facts f;

	level_facts(l, &f);
	return f.state;
}

TEST(kinds_choose_the_level)
{
	struct level *l = table(false, 1);

	CHECK_EQ(level_strongest(l, 1u << SYNC_DELIVERY), SYNC_FLUSHED);
	CHECK_EQ(level_strongest(l, 1u << SYNC_FLAGS), SYNC_LOCAL);
	CHECK_EQ(level_strongest(l, 0), SYNC_LOCAL);
	CHECK_EQ(level_strongest(l, SYNC_ALL_KINDS), SYNC_APPLIED);
	CHECK_EQ(level_wanted(l), 1u << SYNC_FLUSHED | 1u << SYNC_APPLIED);
	level_close(l);
}

TEST(an_answer_comes_with_its_own_seq_and_level)
{
	struct level *l = table(false, 1);
	struct answer a = { 0, 0 }, b = { 0, 0 }, c = { 0, 0 };

	confirm(l, 0, 9, 9, 9);
	CHECK(!level_wait(l, SYNC_LOCAL, 1, answered, &a));
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	CHECK(level_wait(l, SYNC_APPLIED, 1, answered, &b));
	CHECK(level_wait(l, SYNC_FLUSHED, 2, answered, &c));
	/* Not in the journal yet: no number confirms it. */
	confirm(l, 0, 99, 99, 99);
	CHECK_EQ(a.times + b.times + c.times, 0);
	confirm(l, 0, 9, 9, 9);
	level_journaled(l, 1, 10);
	confirm(l, 0, 10, 9, 9);
	CHECK_EQ(a.times, 0);
	confirm(l, 0, 10, 10, 9);
	CHECK_EQ(a.times, 1);
	CHECK_EQ(a.code, 0);
	CHECK_EQ(b.times, 0);
	confirm(l, 0, 11, 11, 11);
	CHECK_EQ(b.times, 1);
	CHECK_EQ(c.times, 0);
	level_journaled(l, 2, 11);
	CHECK_EQ(c.times, 1);
	/* What is confirmed already is answered at once. */
	CHECK(level_wait(l, SYNC_FLUSHED, 2, answered, &c));
	CHECK_EQ(c.times, 2);
	level_close(l);
	CHECK_EQ(a.times + b.times + c.times, 4);
}

/* An fsync that is done again after a start, on a quiet server: nothing was handed in in this life. */
TEST(what_an_earlier_life_journaled_is_confirmed_too)
{
	struct level *l = table(true, 1);
	struct answer a = { 0, 0 };

	level_journaled(l, 0, 10);
	CHECK(level_wait(l, SYNC_FLUSHED, 0, answered, &a));
	confirm(l, 0, 10, 9, 9);
	CHECK_EQ(a.times, 0);
	confirm(l, 0, 10, 10, 10);
	CHECK_EQ(a.times, 1);
	CHECK(level_wait(l, SYNC_FLUSHED, 0, answered, &a));
	CHECK_EQ(a.times, 2);
	level_close(l);
	/* The journal is empty: there is nothing that a peer lacks, once it is here. */
	l = table(true, 1);
	level_journaled(l, 0, 0);
	CHECK(level_wait(l, SYNC_FLUSHED, 0, answered, &a));
	CHECK_EQ(a.times, 2);
	confirm(l, 0, 0, 0, 0);
	CHECK_EQ(a.times, 3);
	level_close(l);
}

TEST(every_peer_must_confirm)
{
	struct level *l = table(false, 2);
	struct answer a = { 0, 0 };

	level_journaled(l, 1, 10);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	confirm(l, 0, 10, 10, 10);
	CHECK_EQ(a.times, 0);
	confirm(l, 1, 10, 9, 9);
	CHECK_EQ(a.times, 0);
	/* What a peer said in a session that is over counts no more. */
	level_away(l, 0);
	confirm(l, 1, 10, 10, 10);
	CHECK_EQ(a.times, 0);
	confirm(l, 0, 10, 10, 10);
	CHECK_EQ(a.times, 1);
	level_close(l);
}

TEST(continue_answers_at_the_limit_and_waits_again_later)
{
	struct level *l = table(false, 1);
	struct answer a = { 0, 0 }, b = { 0, 0 };
	struct sync_level_facts f;

	confirm(l, 0, 9, 9, 9);
	level_journaled(l, 1, 10);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	later(999);
	level_tick(l);
	CHECK_EQ(a.times, 0);
	CHECK_EQ(state(l), SYNC_LEVEL_WAITING);
	later(1);
	t_expect_log("durability: no peer has confirmed");
	level_tick(l);
	CHECK_EQ(a.times, 1);
	CHECK_EQ(a.code, 0);
	CHECK_EQ(state(l), SYNC_LEVEL_ALONE);
	/* Nobody waits now. */
	level_journaled(l, 2, 11);
	CHECK(level_wait(l, SYNC_FLUSHED, 2, answered, &b));
	CHECK_EQ(b.times, 1);
	level_facts(l, &f);
	CHECK_EQ(f.unconfirmed, 2);
	CHECK_EQ(f.alones, 1);
	CHECK(f.alone_since != 0);
	/* A peer that comes nearer, too slowly to be waited for. */
	level_tick(l);
	later(5000);
	confirm(l, 0, 11, 11, 11);
	CHECK_EQ(state(l), SYNC_LEVEL_ALONE);
	level_journaled(l, 3, 12);
	level_tick(l);
	later(100);
	confirm(l, 0, 12, 12, 12);
	CHECK_EQ(state(l), SYNC_LEVEL_WAITING);
	level_facts(l, &f);
	CHECK_EQ(f.alone_since, 0);
	level_journaled(l, 4, 13);
	CHECK(level_wait(l, SYNC_FLUSHED, 4, answered, &a));
	CHECK_EQ(a.times, 1);
	level_close(l);
	CHECK_EQ(a.times, 2);
	CHECK_EQ(a.code, ERR_CLOSED);
}

TEST(a_peer_that_is_away_is_waited_for_once)
{
	struct level *l = table(false, 1);
	struct answer a = { 0, 0 };

	confirm(l, 0, 9, 9, 9);
	level_away(l, 0);
	later(500);
	level_tick(l);
	CHECK_EQ(state(l), SYNC_LEVEL_WAITING);
	/* Back in time. */
	confirm(l, 0, 9, 9, 9);
	later(800);
	level_tick(l);
	CHECK_EQ(state(l), SYNC_LEVEL_WAITING);
	level_away(l, 0);
	later(1000);
	t_expect_log("durability: no peer has confirmed");
	level_tick(l);
	CHECK_EQ(state(l), SYNC_LEVEL_ALONE);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	CHECK_EQ(a.times, 1);
	level_close(l);
}

TEST(refuse_answers_nobody_until_the_peer_is_back)
{
	struct level *l = table(true, 1);
	struct answer a = { 0, 0 }, b = { 0, 0 };

	level_journaled(l, 1, 10);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	CHECK(!level_refusing(l));
	later(1000);
	t_expect_log("durability: no peer has confirmed");
	level_tick(l);
	CHECK(level_refusing(l));
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &b));
	later(1000000);
	level_tick(l);
	CHECK_EQ(a.times + b.times, 0);
	CHECK_EQ(state(l), SYNC_LEVEL_REFUSING);
	confirm(l, 0, 10, 10, 10);
	CHECK_EQ(a.times, 1);
	CHECK_EQ(b.times, 1);
	CHECK(!level_refusing(l));
	CHECK_EQ(state(l), SYNC_LEVEL_WAITING);
	level_close(l);
}

TEST(force_answers_and_ends_by_itself)
{
	struct level *l = table(true, 1);
	struct answer a = { 0, 0 }, b = { 0, 0 };

	level_journaled(l, 1, 10);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	t_expect_log("durability: no peer has confirmed");
	t_expect_log("durability: forced");
	CHECK_EQ(level_force(l), 1);
	CHECK_EQ(a.times, 1);
	CHECK_EQ(a.code, 0);
	CHECK(!level_refusing(l));
	CHECK_EQ(state(l), SYNC_LEVEL_FORCED);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &b));
	CHECK_EQ(b.times, 1);
	confirm(l, 0, 10, 10, 10);
	CHECK_EQ(state(l), SYNC_LEVEL_WAITING);
	CHECK(level_wait(l, SYNC_FLUSHED, 2, answered, &b));
	CHECK_EQ(b.times, 1);
	level_close(l);
	CHECK_EQ(b.times, 2);
}

TEST(local_can_be_forced_too)
{
	const struct level_conf c = { .refuse = true, .limit_ms = 1000, .n_peers = 1 };
	struct level *l = NULL;

	CHECK_EQ(level_open(&c, &l), 0);
	CHECK(!level_forced(l));
	t_expect_log("durability: forced");
	CHECK_EQ(level_force(l), 0);
	CHECK(level_forced(l));
	CHECK_EQ(state(l), SYNC_LEVEL_LOCAL);
	level_close(l);
}

TEST(a_stale_side_fails_everybody)
{
	struct level *l = table(true, 1);
	struct answer a = { 0, 0 };

	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	level_fail(l, ERR_ROLE);
	CHECK_EQ(a.times, 1);
	CHECK_EQ(a.code, ERR_ROLE);
	CHECK_EQ(state(l), SYNC_LEVEL_FAILED);
	level_journaled(l, 1, 10);
	confirm(l, 0, 10, 10, 10);
	CHECK(level_wait(l, SYNC_FLUSHED, 1, answered, &a));
	CHECK_EQ(a.times, 2);
	CHECK_EQ(a.code, ERR_ROLE);
	level_close(l);
}

T_MAIN
