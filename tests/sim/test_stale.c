/*
 * test_stale.c - an active side that meets a later epoch, of a promotion it knew nothing of: it
 * gives up, tells whoever waits, does not forget it, and gives nothing away (design 7).
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/epoch.h"
#include "sync/store.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdlib.h>

static struct duo d;
static struct rig A, B;

static _Atomic int told_stale;

static void
on_stale(void *arg)
{
	(void)arg;
	told_stale++;
}

static _Atomic int answer;

static void
on_answer(void *arg, int code)
{
	(void)arg;
	answer = code;
}

/* What a promotion of b will leave in its state. role: what b is when it comes back. */
static void
promote_b(enum epoch_role role)
{
	struct epoch e;
	struct store *s;

	if (store_open(d.state_b, &s) != 0 || epoch_load(s, &e) != 0 ||
		epoch_raise(s, &e, "b", e.line.e[e.line.n - 1].base, 6) != 0 ||
		(role == EPOCH_STANDBY && epoch_follow(s, &e, &e.line) != 0))
		abort();
	store_close(s);
}

/* Another connection may have had the last word for a moment. */
static bool
says_later_epoch(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->later_epoch != 0 && strstr(f->peers[0].error, "later epoch") != NULL;
}

static void
a_stale_active(enum epoch_role role)
{
	static struct sync_facts f;
	struct buf lack = BUF_INIT;

	told_stale = 0;
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	duo_stop_a(&d, false);
	promote_b(role);
	d.hooks.stale = on_stale;
	d.level = SYNC_APPLIED;
	duo_start_a(&d);
	CHECK(!sync_is_stale(d.sync));
	duo_start_b(&d);
	rig_append(&A, 300);
	duo_commit(&d, &A);
	answer = 1;
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_answer, NULL));
	/* who waits is told at once, not when his time is over */
	CHECK_EQ(sync_wait(d.sync, 10 * DUO_WAIT_MS, NULL, NULL, &lack), ERR_ROLE);
	CHECK(strstr(buf_str(&lack), "stale") != NULL);
	CHECK(strstr(buf_str(&lack), "join it anew") != NULL);
	CHECK(told_stale > 0);
	CHECK_EQ(answer, ERR_ROLE);
	CHECK_EQ(sync_prove(d.sync, 10 * DUO_WAIT_MS, NULL, NULL, NULL), ERR_ROLE);
	CHECK(duo_until(&d, says_later_epoch, NULL));
	sync_facts(d.sync, &f);
	CHECK_EQ(f.later_epoch, 7);
	CHECK(strstr(f.stale, "epoch 7") != NULL);
	/* nor does it forget: the next life knows before it meets anybody */
	duo_stop_b(&d, true);
	duo_stop_a(&d, false);
	duo_start_a(&d);
	CHECK(sync_is_stale(d.sync));
	CHECK_EQ(sync_wait(d.sync, 10 * DUO_WAIT_MS, NULL, NULL, NULL), ERR_ROLE);
	answer = 1;
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_answer, NULL));
	CHECK_EQ(answer, ERR_ROLE);
	/* and nothing was given to the other side */
	CHECK(!duo_exists(d.root_b, "box/a/4."));
	buf_fini(&lack);
	duo_close(&d);
}

TEST(a_stale_active_that_meets_a_later_standby_gives_up)
{
	a_stale_active(EPOCH_STANDBY);
}

TEST(a_stale_active_that_meets_a_later_active_gives_up)
{
	a_stale_active(EPOCH_ACTIVE);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
