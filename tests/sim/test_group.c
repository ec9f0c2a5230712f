/*
 * test_group.c - rows that come close together share a transaction of the journal, and one that
 * comes alone never waits.
 *
 * sqlite3_step is this program's own, and counts what ends a transaction.
 */
#include "meta/base/clock.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <dlfcn.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { GROUP_MS = 2, MANY = 400, TRIES = 500 };

static struct duo d;
static struct rig A, B;
static atomic_uint transactions;
static _Atomic uint64_t done_us;

int
sqlite3_step(sqlite3_stmt *stmt)
{
	static int (*_Atomic real)(sqlite3_stmt *);

	if (real == NULL)
		real = (int (*)(sqlite3_stmt *))dlsym(RTLD_NEXT, "sqlite3_step");
	const char *sql = sqlite3_sql(stmt); /* NULL for SQLite's own */
	transactions += sql != NULL && strcmp(sql, "COMMIT") == 0;
	return real(stmt);
}

static void
on_done(void *arg)
{
	(void)arg;
	done_us = clock_us();
}

/* A flag changes; how long until that is in the journal. */
static uint64_t
alone_us(void)
{
	struct sync_commit c = { .dir = A.dir, .derive = true, .done = on_done };

	rig_flag(&A, 1, 1);
	rig_commit(&A);
	A.n_touched = 0;
	done_us = 0;
	uint64_t began = clock_us(), give_up = began + DUO_WAIT_MS * 1000;
	sync_commit(d.sync, &c);
	while (done_us == 0 && clock_us() < give_up)
		usleep(20);
	return done_us == 0 ? UINT64_MAX : done_us - began;
}

TEST(a_row_that_comes_alone_does_not_wait)
{
	uint64_t least = UINT64_MAX;

	CHECK(duo_two(&d, &A, &B));
	for (int i = 0; i < TRIES && least >= GROUP_MS * 1000 / 2; i++) {
		usleep(3 * GROUP_MS * 1000);
		uint64_t took = alone_us();
		least = took < least ? took : least;
	}
	CHECK(least < GROUP_MS * 1000 / 2);
	duo_close(&d);
}

TEST(those_that_come_together_share_a_transaction)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	usleep(3 * GROUP_MS * 1000);
	unsigned before = transactions;
	uint64_t began = clock_ms();
	for (int i = 0; i < MANY; i++) {
		rig_flag(&A, 1, 1);
		duo_commit(&d, &A);
	}
	uint64_t took = clock_ms() - began;
	unsigned n = transactions - before;
	printf("# %u rows in %u ms: %u transactions\n", MANY, (unsigned)took, n);
	/* and a few that keep the peer's place */
	CHECK(n <= took / GROUP_MS + took / 50 + 5);
	CHECK(n > 0);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
