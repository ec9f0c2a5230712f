#include "sync/loop.h"
#include "meta/base/clock.h"
#include "tests/lib/t.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static uint64_t now_us;
static char trace[200];
static char text_a[] = "a", text_b[] = "b", text_c[] = "c", text_r[] = "r",
	    text_x[] = "x";

static uint64_t
fake_clock(void)
{
	return now_us;
}

static void
note(void *arg)
{
	strcat(trace, arg);
}

static void
begin(void)
{
	now_us = 1000000;
	trace[0] = '\0';
	clock_set_source(fake_clock);
}

TEST(timers_by_due_time)
{
	struct loop *l;
	struct loop_timer a = { .fn = note, .arg = text_a },
			  b = { .fn = note, .arg = text_b },
			  c = { .fn = note, .arg = text_c };

	begin();
	CHECK_EQ(loop_open(&l), 0);
	loop_timer_set(l, &a, 30);
	loop_timer_set(l, &b, 10);
	loop_timer_set(l, &c, 20);
	loop_timer_set(l, &a, 15); /* moved */
	loop_turn(l, 0);
	CHECK_STR(trace, "");
	now_us += 15000;
	loop_turn(l, 0);
	CHECK_STR(trace, "ba");
	loop_timer_clear(l, &c);
	now_us += 100000;
	loop_turn(l, 0);
	CHECK_STR(trace, "ba");
	loop_close(l);
	clock_set_source(NULL);
}

static struct loop *the_loop;
static struct loop_timer self;

static void
again(void *arg)
{
	note(arg);
	loop_timer_set(the_loop, &self, 0);
}

TEST(timer_of_zero_does_not_starve)
{
	begin();
	CHECK_EQ(loop_open(&the_loop), 0);
	self = (struct loop_timer){ .fn = again, .arg = text_x };
	loop_timer_set(the_loop, &self, 0);
	loop_turn(the_loop, 0);
	CHECK_STR(trace, "x");
	loop_turn(the_loop, 0);
	CHECK_STR(trace, "xx");
	loop_timer_clear(the_loop, &self);
	loop_close(the_loop);
	clock_set_source(NULL);
}

static struct loop_fd fd_a, fd_b;

static void
on_a(void *arg, short revents)
{
	(void)arg, (void)revents;
	strcat(trace, "a");
	loop_fd_del(the_loop, &fd_a);
	loop_fd_del(the_loop, &fd_b);
}

/* A callback may remove itself and others that are ready too. */
TEST(descriptors_removed_while_ready)
{
	int p[2];

	begin();
	CHECK_EQ(loop_open(&the_loop), 0);
	CHECK_EQ(pipe(p), 0);
	CHECK_EQ(write(p[1], "x", 1), 1);
	fd_a = (struct loop_fd){ .fd = p[0], .events = POLLIN, .fn = on_a };
	fd_b = fd_a;
	loop_fd_add(the_loop, &fd_a);
	loop_fd_add(the_loop, &fd_b);
	loop_turn(the_loop, 0);
	CHECK_STR(trace, "a");
	loop_turn(the_loop, 0);
	CHECK_STR(trace, "a");
	close(p[0]);
	close(p[1]);
	loop_close(the_loop);
	clock_set_source(NULL);
}

enum { THREADS = 4, RAISES = 2000 };
static _Atomic int wanted;
static int ran;
static struct loop_call call;

static void
count(void *arg)
{
	(void)arg;
	ran++;
	if (wanted == THREADS * RAISES)
		loop_stop(the_loop);
}

static void *
raiser(void *arg)
{
	(void)arg;
	for (int i = 0; i < RAISES; i++) {
		wanted++;
		loop_raise(the_loop, &call);
	}
	return NULL;
}

/* What was wanted before a raise is seen by a run after it. */
TEST(raises_from_threads)
{
	pthread_t t[THREADS];

	ran = 0;
	wanted = 0;
	call = (struct loop_call){ .fn = count };
	CHECK_EQ(loop_open(&the_loop), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, raiser, NULL);
	CHECK_EQ(loop_run(the_loop), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(wanted, THREADS * RAISES);
	CHECK(ran >= 1 && ran <= THREADS * RAISES);
	loop_call_cancel(the_loop, &call);
	loop_close(the_loop);
}

static void
raise_again(void *arg)
{
	note(arg);
	loop_raise(the_loop, &call);
}

TEST(raise_during_the_run_makes_one_more)
{
	begin();
	call = (struct loop_call){ .fn = raise_again, .arg = text_r };
	CHECK_EQ(loop_open(&the_loop), 0);
	loop_raise(the_loop, &call);
	loop_raise(the_loop, &call);
	loop_turn(the_loop, 0);
	CHECK_STR(trace, "r");
	loop_turn(the_loop, -1); /* must not sleep */
	CHECK_STR(trace, "rr");
	loop_call_cancel(the_loop, &call);
	loop_turn(the_loop, 0);
	CHECK_STR(trace, "rr");
	loop_close(the_loop);
	clock_set_source(NULL);
}

T_MAIN
