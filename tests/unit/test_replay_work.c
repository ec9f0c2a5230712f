/*
 * What a worker offers is done by those that have nothing else to do, each part once.
 */
#include "meta/base/clock.h"
#include "sync/replay_priv.h"
#include "tests/lib/t.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { MANY = 1000 };

struct work {
	_Atomic unsigned done[MANY];
	pthread_t first; /* that of who offers it */
	_Atomic bool joined;
	uint64_t until_ms;
};

/* Who begins waits until another has come. */
static void
part(void *arg, size_t i)
{
	struct work *w = arg;

	atomic_fetch_add(&w->done[i], 1);
	if (!pthread_equal(w->first, pthread_self()))
		atomic_store(&w->joined, true);
	while (!atomic_load(&w->joined) && clock_ms() < w->until_ms)
		usleep(100);
}

static void
alone(void *arg, size_t i)
{
	struct work *w = arg;

	atomic_fetch_add(&w->done[i], 1);
}

static bool
each_once(const struct work *w)
{
	for (size_t i = 0; i < MANY; i++)
		if (atomic_load(&w->done[i]) != 1)
			return false;
	return true;
}

TEST(idle_workers_help)
{
	struct replay *r = calloc(1, sizeof(*r));
	struct work w = { .first = pthread_self(),
		.until_ms = clock_ms() + t_limit(5000) };

	CHECK(r != NULL);
	CHECK_EQ(replay_work_open(r, 3), 0);
	replay_work_share(r, part, &w, MANY);
	CHECK(each_once(&w));
	CHECK(atomic_load(&w.joined));
	for (int n = 0; n < 100; n++) {
		struct work again = { .joined = false };
		replay_work_share(r, alone, &again, MANY);
		CHECK(each_once(&again));
	}
	replay_work_close(r);
	free(r);
}

static void *
offer(void *arg)
{
	struct replay *r = arg;
	struct work w = { .joined = false };

	replay_work_share(r, alone, &w, MANY);
	return each_once(&w) ? r : NULL;
}

/* Two mailboxes at once: one is shared, the other is done by its own worker. */
TEST(two_offers_at_once)
{
	struct replay *r = calloc(1, sizeof(*r));
	pthread_t other;
	void *well;

	CHECK(r != NULL);
	CHECK_EQ(replay_work_open(r, 2), 0);
	for (int n = 0; n < 100; n++) {
		CHECK_EQ(pthread_create(&other, NULL, offer, r), 0);
		CHECK(offer(r) != NULL);
		CHECK_EQ(pthread_join(other, &well), 0);
		CHECK(well != NULL);
	}
	replay_work_close(r);
	free(r);
}

T_MAIN
