/* test_moving.c - tickets against moves, and who waits for whom. */
#include "meta/base/err.h"
#include "sync/moving.h"
#include "tests/lib/t.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static bool
enters(struct moving *m, uint64_t ticket, const char *path)
{
	bool valid = moving_enter(m, ticket, path);

	if (valid)
		moving_leave(m);
	return valid;
}

TEST(a_ticket_from_before_or_within_a_move_is_not_valid_for_its_names)
{
	struct moving_one *one;
	struct moving *m;

	CHECK_EQ(moving_open(&m), 0);
	uint64_t before = moving_ticket(m);
	CHECK(before != 0);
	CHECK(enters(m, before, "user/a/Sent"));
	CHECK_EQ(moving_begin(m, before, "user/a", "user/b", &one), 0);
	uint64_t within = moving_ticket(m);
	CHECK(!enters(m, within, "user/a"));
	CHECK(!enters(m, within, "user/b/Sent"));
	CHECK(enters(m, within, "user/bb"));
	CHECK(enters(m, within, "user"));
	moving_end(m, one);
	CHECK(!enters(m, before, "user/a/Sent"));
	/* Found while it was on: under whichever name. */
	CHECK(!enters(m, within, "user/a/Sent"));
	CHECK(!enters(m, within, "user/b"));
	CHECK(enters(m, within, "user/c"));
	CHECK(enters(m, moving_ticket(m), "user/a/Sent"));
	CHECK(enters(m, moving_ticket(m), "user/b"));
	moving_close(m);
}

TEST(a_ticket_older_than_what_is_remembered_is_not_valid_for_anything)
{
	struct moving_one *one;
	struct moving *m;
	char from[20];

	CHECK_EQ(moving_open(&m), 0);
	uint64_t old = moving_ticket(m);
	for (int i = 0; i < 200; i++) {
		CHECK_EQ(enters(m, old, "elsewhere"), i <= 64);
		snprintf(from, sizeof(from), "f%d", i);
		CHECK_EQ(moving_begin(m, moving_ticket(m), from, "t", &one), 0);
		moving_end(m, one);
	}
	CHECK(enters(m, moving_ticket(m), "elsewhere"));
	moving_close(m);
}

struct other {
	struct moving *m;
	uint64_t ticket;
	_Atomic int rc;
	_Atomic bool began, waited;
};

static void *
move_inside(void *arg)
{
	struct other *o = arg;
	struct moving_one *one;

	o->began = true;
	o->rc = moving_begin(o->m, o->ticket, "user/a/x", "user/c", &one);
	return NULL;
}

static void *
wait_for(void *arg)
{
	struct other *o = arg;

	o->began = true;
	moving_wait(o->m, "user/b/x");
	o->waited = true;
	return NULL;
}

TEST(a_move_inside_another_and_who_waits_go_on_when_it_ends)
{
	struct moving_one *one;
	struct other o = { 0 };
	pthread_t mover, waiter;

	CHECK_EQ(moving_open(&o.m), 0);
	o.ticket = moving_ticket(o.m);
	CHECK_EQ(moving_begin(o.m, o.ticket, "user/a", "user/b", &one), 0);
	CHECK_EQ(pthread_create(&mover, NULL, move_inside, &o), 0);
	CHECK_EQ(pthread_create(&waiter, NULL, wait_for, &o), 0);
	CHECK(!o.waited);
	moving_wait(o.m, "user/elsewhere");
	moving_end(o.m, one);
	pthread_join(mover, NULL);
	pthread_join(waiter, NULL);
	CHECK(o.waited);
	/* Its names were found before, so they are found again. */
	CHECK_EQ(o.rc, ERR_NOTFOUND);
	moving_close(o.m);
}

T_MAIN
