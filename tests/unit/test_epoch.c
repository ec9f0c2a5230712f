/* The comparison of two histories as a table, their bytes, and what is stored of them. */
#include "tests/lib/t.h"
#include "meta/base/err.h"
#include "sync/epoch.h"

#define P(e, r, s) ((struct pos){ (e), (r), (s) })

/* clang-format off */
static const struct epoch_line none = { 0 };
static const struct epoch_line a1 = { 1, { { 1, 11, { 0 }, "a" } } };
static const struct epoch_line a1_again = { 1, { { 1, 12, { 0 }, "a" } } };
static const struct epoch_line a1_b2 = { 2, { { 1, 11, { 0 }, "a" }, { 2, 21, { 1, 1, 100 }, "b" } } };
static const struct epoch_line a1_c2 = { 2, { { 1, 11, { 0 }, "a" }, { 2, 22, { 1, 1, 90 }, "c" } } };
static const struct epoch_line a1_c3 = { 2, { { 1, 11, { 0 }, "a" }, { 3, 31, { 1, 1, 100 }, "c" } } };
static const struct epoch_line a1_b2_a3 = { 3, { { 1, 11, { 0 }, "a" }, { 2, 21, { 1, 1, 100 }, "b" },
	{ 3, 32, { 2, 1, 150 }, "a" } } };
static const struct epoch_line b2_a3 = { 2, { { 2, 21, { 1, 1, 100 }, "b" }, { 3, 32, { 2, 1, 150 }, "a" } } };

static const struct {
	const char *what;
	const struct epoch_line *ours;
	struct pos our_last;
	const struct epoch_line *theirs;
	struct pos their_last;
	enum epoch_relation want;
	struct pos fork;
} cases[] = {
	{ "both new", &none, P(0, 0, 0), &none, P(0, 0, 0), EPOCH_SAME, P(0, 0, 0) },
	{ "we are new", &none, P(0, 0, 0), &a1, P(1, 1, 5), EPOCH_BEHIND, P(0, 0, 0) },
	{ "they are new", &a1, P(1, 1, 5), &none, P(0, 0, 0), EPOCH_AHEAD, P(0, 0, 0) },
	{ "equal", &a1, P(1, 1, 5), &a1, P(1, 1, 5), EPOCH_SAME, P(1, 1, 5) },
	{ "ahead in one epoch", &a1, P(1, 1, 6), &a1, P(1, 1, 5), EPOCH_AHEAD, P(1, 1, 5) },
	{ "a later run is ahead", &a1, P(1, 2, 3), &a1, P(1, 1, 5), EPOCH_AHEAD, P(1, 1, 5) },
	{ "behind in one epoch", &a1, P(1, 1, 4), &a1, P(1, 1, 5), EPOCH_BEHIND, P(1, 1, 4) },
	{ "another life of the same node", &a1, P(1, 1, 4), &a1_again, P(1, 1, 4),
		EPOCH_UNRELATED, P(0, 0, 0) },
	{ "they were promoted where we stopped", &a1, P(1, 1, 100), &a1_b2, P(2, 1, 101),
		EPOCH_BEHIND, P(1, 1, 100) },
	{ "they were promoted, we lack some before", &a1, P(1, 1, 80), &a1_b2, P(2, 1, 101),
		EPOCH_BEHIND, P(1, 1, 80) },
	{ "they were promoted without our last", &a1, P(1, 1, 101), &a1_b2, P(2, 1, 101),
		EPOCH_FORKED, P(1, 1, 100) },
	{ "the same, nothing written there", &a1, P(1, 1, 101), &a1_b2, P(1, 1, 100),
		EPOCH_AHEAD, P(1, 1, 100) },
	{ "we were promoted without their last", &a1_b2, P(2, 1, 101), &a1, P(1, 1, 101),
		EPOCH_FORKED, P(1, 1, 100) },
	{ "we were promoted with all of theirs", &a1_b2, P(2, 1, 101), &a1, P(1, 1, 100),
		EPOCH_AHEAD, P(1, 1, 100) },
	{ "two promotions to the same epoch, both wrote", &a1_b2, P(2, 1, 101), &a1_c2,
		P(2, 1, 91), EPOCH_FORKED, P(1, 1, 90) },
	{ "two promotions, only we wrote", &a1_b2, P(2, 1, 101), &a1_c3, P(1, 1, 100),
		EPOCH_AHEAD, P(1, 1, 100) },
	{ "two promotions, nobody wrote: the higher epoch", &a1_b2, P(1, 1, 100), &a1_c3,
		P(1, 1, 100), EPOCH_BEHIND, P(1, 1, 100) },
	{ "two epochs on", &a1, P(1, 1, 100), &a1_b2_a3, P(3, 1, 160), EPOCH_BEHIND,
		P(1, 1, 100) },
	{ "forked two epochs ago", &a1, P(1, 1, 101), &a1_b2_a3, P(3, 1, 160), EPOCH_FORKED,
		P(1, 1, 100) },
	{ "one epoch behind of three", &a1_b2, P(2, 1, 150), &a1_b2_a3, P(3, 1, 160),
		EPOCH_BEHIND, P(2, 1, 150) },
	{ "the beginning was forgotten there", &a1_b2, P(2, 1, 150), &b2_a3, P(3, 1, 160),
		EPOCH_BEHIND, P(2, 1, 150) },
	{ "so much forgotten that nothing is common", &a1, P(1, 1, 100), &b2_a3, P(3, 1, 160),
		EPOCH_UNRELATED, P(0, 0, 0) },
};
/* clang-format on */

static enum epoch_relation
mirror(enum epoch_relation r)
{
	return r == EPOCH_AHEAD ? EPOCH_BEHIND : r == EPOCH_BEHIND ? EPOCH_AHEAD : r;
}

TEST(compare_table_and_its_mirror)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct pos fork;
		enum epoch_relation r = epoch_compare(cases[i].ours, cases[i].our_last,
			cases[i].theirs, cases[i].their_last, &fork);
		if (r != cases[i].want || pos_cmp(fork, cases[i].fork) != 0)
			t_fail(__FILE__, __LINE__, "%s: %s at " POS_FMT, cases[i].what,
				epoch_relation_text(r), POS_ARG(fork));
		r = epoch_compare(cases[i].theirs, cases[i].their_last, cases[i].ours,
			cases[i].our_last, NULL);
		if (r != mirror(cases[i].want))
			t_fail(__FILE__, __LINE__, "%s, mirrored: %s", cases[i].what,
				epoch_relation_text(r));
	}
}

TEST(bytes_round_trip_and_every_cut_is_refused)
{
	struct epoch_line back;
	struct buf b = BUF_INIT;

	CHECK_EQ(epoch_encode(&a1_b2_a3, &b), 0);
	CHECK_EQ(epoch_decode(b.data, b.len, &back), 0);
	CHECK_MEM(&back, &a1_b2_a3, sizeof(back));
	for (size_t n = 0; n < b.len; n++)
		CHECK(epoch_decode(b.data, n, &back) != 0);
	for (int i = 0; i < 20000; i++) {
		uint8_t copy[256];
		memcpy(copy, b.data, b.len);
		copy[t_rand() % b.len] ^= (uint8_t)(1 + t_rand() % 255);
		if (epoch_decode(copy, b.len, &back) == 0)
			for (unsigned k = 1; k < back.n; k++)
				CHECK(back.e[k].epoch > back.e[k - 1].epoch);
	}
	b.data[0] = 9;
	CHECK_EQ(epoch_decode(b.data, b.len, &back), ERR_VERSION);
	buf_fini(&b);
}

TEST(stored_history_survives_reopening)
{
	struct buf was = BUF_INIT, is = BUF_INIT;
	struct epoch e, back;
	struct store *s;

	CHECK_EQ(store_open(t_tmpdir(), &s), 0);
	CHECK_EQ(epoch_load(s, &e), ERR_NOTFOUND);
	CHECK_EQ(epoch_found(s, EPOCH_STANDBY, "b", &e), 0);
	CHECK_EQ(epoch_current(&e.line), 0);
	CHECK_EQ(epoch_follow(s, &e, &a1), 0);
	CHECK_EQ(e.role, EPOCH_STANDBY);
	CHECK_EQ(epoch_raise(s, &e, "b", P(1, 1, 100), 4), 0);
	CHECK_EQ(e.role, EPOCH_ACTIVE);
	CHECK_EQ(epoch_current(&e.line), 5);
	CHECK_EQ(epoch_raise(s, &e, "b", P(6, 1, 100), 0), ERR_USAGE);
	store_close(s);
	CHECK_EQ(store_open(t_tmpdir(), &s), 0);
	CHECK_EQ(epoch_load(s, &back), 0);
	CHECK_EQ(back.role, e.role);
	CHECK_EQ(epoch_encode(&e.line, &was), 0);
	CHECK_EQ(epoch_encode(&back.line, &is), 0);
	CHECK_EQ(is.len, was.len);
	CHECK_MEM(is.data, was.data, was.len);
	buf_fini(&was);
	buf_fini(&is);
	CHECK_EQ(store_put_blob(s, "epochs", "\1\1\7", 3), 0);
	t_expect_log("history of epochs cannot be read");
	CHECK_EQ(epoch_load(s, &back), ERR_STORE);
	store_close(s);
}

TEST(two_foundings_are_told_apart)
{
	struct epoch a, b;
	struct store *s;

	CHECK_EQ(store_open(t_tmpdir(), &s), 0);
	CHECK_EQ(epoch_found(s, EPOCH_ACTIVE, "a", &a), 0);
	CHECK_EQ(epoch_found(s, EPOCH_ACTIVE, "a", &b), 0);
	store_close(s);
	CHECK_EQ(epoch_compare(&a.line, P(1, 1, 1), &b.line, P(1, 1, 1), NULL),
		EPOCH_UNRELATED);
}

TEST(history_keeps_the_newest)
{
	struct epoch e;
	struct store *s;

	CHECK_EQ(store_open(t_tmpdir(), &s), 0);
	CHECK_EQ(epoch_found(s, EPOCH_ACTIVE, "a", &e), 0);
	for (unsigned i = 1; i < EPOCH_HISTORY_MAX + 10; i++)
		CHECK_EQ(epoch_raise(s, &e, "a", P(i, 1, i), 0), 0);
	CHECK_EQ(e.line.n, EPOCH_HISTORY_MAX);
	CHECK_EQ(epoch_current(&e.line), EPOCH_HISTORY_MAX + 10);
	CHECK_EQ(epoch_load(s, &e), 0);
	CHECK_EQ(e.line.n, EPOCH_HISTORY_MAX);
	store_close(s);
}

T_MAIN
