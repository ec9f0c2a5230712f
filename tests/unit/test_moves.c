/* test_moves.c - names of older rows, followed to where folders are now. */
#include "sync/moves.h"
#include "tests/lib/t.h"

#include <string.h>

TEST(a_row_is_followed_through_the_moves_after_it)
{
	struct moves *m;
	char at[32];

	CHECK_EQ(moves_open(&m), 0);
	CHECK_EQ(moves_add(m, 10, "box/a", "box/b"), 0);
	CHECK_EQ(moves_add(m, 20, "box", "bag/deep"), 0);
	CHECK(moves_now(m, 5, "box/a/sub", at, sizeof(at)));
	CHECK(strcmp(at, "bag/deep/b/sub") == 0);
	/* A row of the time between them means another box/a. */
	CHECK(moves_now(m, 11, "box/a", at, sizeof(at)));
	CHECK(strcmp(at, "bag/deep/a") == 0);
	CHECK(!moves_now(m, 21, "box/a", at, sizeof(at)));
	/* Not below it, only spelled alike. */
	CHECK(!moves_now(m, 5, "boxes/a", at, sizeof(at)));
	moves_close(m);
}

TEST(what_is_confirmed_is_forgotten_and_what_is_too_long_is_not_cut)
{
	struct moves *m;
	char at[8];

	CHECK_EQ(moves_open(&m), 0);
	CHECK_EQ(moves_add(m, 10, "a", "b"), 0);
	CHECK_EQ(moves_add(m, 20, "b", "longer"), 0);
	CHECK(!moves_now(m, 1, "a/xyz", at, sizeof(at)));
	CHECK(moves_now(m, 1, "a", at, sizeof(at)));
	CHECK(strcmp(at, "longer") == 0);
	moves_release(m, 10);
	CHECK(!moves_now(m, 1, "a", at, sizeof(at)));
	CHECK(moves_now(m, 1, "b", at, sizeof(at)));
	moves_release(m, 20);
	CHECK(!moves_now(m, 1, "b", at, sizeof(at)));
	moves_close(m);
}

T_MAIN
