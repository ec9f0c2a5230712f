#include "sync/mboxes.h"
#include "tests/lib/t.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

static struct mboxent *
known(struct mboxes *t, const char *dir, const char *id)
{
	struct mboxent *e = mboxes_get(t, dir);

	snprintf(e->state->uniqueid, sizeof(e->state->uniqueid), "%s", id);
	e->known = true;
	mboxes_identify(t, e);
	return e;
}

TEST(an_entry_is_found_again_among_many)
{
	struct mboxes *t;
	char dir[32];

	CHECK_EQ(mboxes_open(&t), 0);
	for (int i = 0; i < 5000; i++) {
		snprintf(dir, sizeof(dir), "user/%d", i);
		known(t, dir, dir);
	}
	CHECK_EQ(mboxes_count(t), 5000);
	for (int i = 0; i < 5000; i++) {
		snprintf(dir, sizeof(dir), "user/%d", i);
		struct mboxent *e = mboxes_find(t, dir);
		CHECK(e != NULL);
		CHECK_STR(e->dir, dir);
		CHECK(mboxes_by_id(t, dir) == e);
	}
	CHECK(mboxes_find(t, "user/5000") == NULL);
	mboxes_close(t);
}

TEST(a_rename_under_way_finds_its_twin)
{
	struct mboxes *t;

	CHECK_EQ(mboxes_open(&t), 0);
	struct mboxent *old = known(t, "user/a/old", "id1");
	struct mboxent *new = mboxes_get(t, "user/a/new");
	CHECK(mboxes_twin(t, "id1", new->dir) == old);
	known(t, "user/a/new", "id1");
	CHECK(mboxes_twin(t, "id1", "user/a/new") == old);
	CHECK(mboxes_twin(t, "id1", "user/a/old") == new);
	old->known = false;
	mboxes_identify(t, old);
	CHECK(mboxes_twin(t, "id1", "user/a/new") == NULL);
	CHECK(mboxes_by_id(t, "id1") == new);
	mboxes_close(t);
}

TEST(only_what_changed_is_to_be_stored)
{
	struct mboxes *t;
	char dir[32];
	size_t n;

	CHECK_EQ(mboxes_open(&t), 0);
	for (int i = 0; i < 5000; i++) {
		snprintf(dir, sizeof(dir), "user/%d", i);
		known(t, dir, dir);
	}
	struct mboxent **list = mboxes_take_dirty(t, &n);
	CHECK_EQ(n, 0);
	free(list);
	struct mboxent *a = mboxes_find(t, "user/7"), *b = mboxes_find(t, "user/8");
	mboxes_dirty(t, a);
	mboxes_dirty(t, b);
	mboxes_dirty(t, a);
	list = mboxes_take_dirty(t, &n);
	CHECK_EQ(n, 2);
	CHECK((list[0] == a && list[1] == b) || (list[0] == b && list[1] == a));
	free(list);
	/* Taken, and changed again before it was stored. */
	mboxes_dirty(t, b);
	list = mboxes_take_dirty(t, &n);
	CHECK_EQ(n, 1);
	CHECK(list[0] == b);
	free(list);
	free(mboxes_take_dirty(t, &n));
	CHECK_EQ(n, 0);
	mboxes_close(t);
}

TEST(the_total_sees_whose_sum_it_is)
{
	struct mboxes *t;

	CHECK_EQ(mboxes_open(&t), 0);
	struct mboxent *a = known(t, "a", "1"), *b = known(t, "b", "2");
	a->state->sum.records = (struct sum){ 1, 2 };
	b->state->sum.records = (struct sum){ 3, 4 };
	struct sum before = mboxes_total(t);
	a->state->sum.records = (struct sum){ 3, 4 };
	b->state->sum.records = (struct sum){ 1, 2 };
	CHECK(!sum_eq(before, mboxes_total(t)));
	a->state->sum.records = (struct sum){ 1, 2 };
	b->state->sum.records = (struct sum){ 3, 4 };
	CHECK(sum_eq(before, mboxes_total(t)));
	b->aside = true;
	CHECK(!sum_eq(before, mboxes_total(t)));
	mboxes_close(t);
}

static size_t
held(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* Design 10: 100,000 mailboxes in 200 MB. Of messages nothing is held here, so their number does
 * not matter. */
TEST(a_hundred_thousand_mailboxes_fit_in_memory)
{
	enum { SOME = 5000, ALL = 100000, MOST = 100 << 20 };
	struct mboxes *t;
	char dir[120], id[40];

	CHECK_EQ(mboxes_open(&t), 0);
	size_t before = held();
	for (int i = 0; i < SOME; i++) {
		snprintf(dir, sizeof(dir),
			"domain/e/example.org/%c/user/somebody.%d/Archive^2026",
			'a' + i % 26, i);
		snprintf(id, sizeof(id), "5d2e1f0c-9a4b-4c1d-8e2f-%012d", i);
		known(t, dir, id);
	}
	size_t each = (held() - before) / SOME;
	printf("# %zu bytes for a mailbox, %zu MB for %d\n", each, each * ALL / 1000000,
		ALL);
	CHECK(each * ALL < MOST);
	mboxes_close(t);
}

T_MAIN
