/*
 * test_proof.c - the proof of a stop finds that the two sides differ: then all mailboxes are
 * compared, what differs is made equal or set aside, and the stop says so.
 */
#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/store.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct duo d;
static struct rig A, B;
static _Atomic int comparisons, streams, asides;

static void
on_log(enum log_level level, const char *line)
{
	(void)level;
	asides += strstr(line, "cannot be made equal") != NULL;
	comparisons += strstr(line, "peer is compared") != NULL;
	streams += strstr(line, "because: stream") != NULL;
	if (getenv("SIM_DEBUG") != NULL)
		fprintf(stderr, "# a: %s\n", line);
}

/* Two mailboxes on both sides; the standby is down. */
static bool
two_mailboxes(void)
{
	log_set_hook(on_log);
	duo_open(&d);
	duo_start_b(&d);
	duo_start_a(&d);
	duo_create(&d, &A, "box/a", "id-a");
	duo_create(&d, &B, "box/b", "id-b");
	for (int i = 0; i < 3; i++) {
		rig_append(&A, 500);
		rig_append(&B, 500);
	}
	duo_commit(&d, &A);
	duo_commit(&d, &B);
	bool settled = duo_settled(&d);
	duo_stop_b(&d, false);
	return settled;
}

/* What the standby knows of a mailbox is gone from its books, and nobody saw it go. */
static void
forget(const char *dir)
{
	struct store *s;

	if (store_open(d.state_b, &s) != 0 || !store_was_clean(s) ||
		store_mbox_drop(s, dir, 1) != 0)
		abort();
	store_close(s);
}

/* A message that only the standby has. */
static void
more_in(struct rig *g)
{
	struct spool *sp;

	if (spool_open(d.root_b, &sp) != 0)
		abort();
	struct rig other = *g;
	other.sp = sp;
	other.old_index = NULL;
	other.n_touched = 0;
	rig_append(&other, 100);
	duo_commit_untold(&other);
	rig_fini(&other);
	spool_close(sp);
}

TEST(what_a_proof_finds_to_differ_is_compared_and_made_equal)
{
	struct buf says = BUF_INIT;

	CHECK(two_mailboxes());
	/* Of one it has an older state, and knows nothing of both. */
	duo_sh("rm %s/box/a/cyrus.index", d.root_b);
	forget("box/a");
	forget("box/b");
	comparisons = streams = 0;
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(streams, 1);
	CHECK_EQ(comparisons, 0);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, &says), 0);
	CHECK_EQ(comparisons, 1);
	CHECK(strstr(buf_str(&says), "peer b differed") != NULL);
	CHECK(strstr(buf_str(&says), "equal now") != NULL);
	/* and all is as ever: nothing is said twice, and rows flow */
	buf_clear(&says);
	rig_append(&A, 100);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, &says), 0);
	CHECK_EQ(says.len, 0);
	CHECK_EQ(comparisons, 1);
	/* the comparison is over in the books as well */
	duo_stop_b(&d, false);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(streams, 2);
	duo_stop_equal(&d);
	buf_fini(&says);
	duo_close(&d);
}

/* One that has been removed here, and there it has not: an extra, also in a second comparison. */
static int
take_state(void *arg, const struct store_mbox *m)
{
	buf_put(arg, m->state, m->n);
	return 0;
}

TEST(what_only_the_standby_knows_is_found_as_well)
{
	struct buf says = BUF_INIT;

	CHECK(two_mailboxes());
	forget("box/a");
	duo_start_b(&d);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	duo_stop_b(&d, false);
	duo_sh("cp -a %s/box/b %s/box/c && sed -i s/id-b/id-c/ %s/box/c/cyrus.header",
		d.root_b, d.root_b, d.root_b);
	struct store *s;
	struct buf state = BUF_INIT;
	CHECK_EQ(store_open(d.state_b, &s), 0);
	CHECK_EQ(store_mbox_walk(s, "box/a", 1, take_state, &state), 0); /* box/b */
	struct store_mbox m = { "box/c", "id-c", 0, state.data, state.len };
	CHECK_EQ(store_mbox_put(s, &m), 0);
	store_close(s);
	buf_fini(&state);
	duo_start_b(&d);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, &says), 0);
	CHECK(strstr(buf_str(&says), "peer b differed") != NULL);
	CHECK(strstr(buf_str(&says), "set aside") != NULL);
	duo_sh("test -e %s/box/c/1.", d.root_b);
	buf_fini(&says);
	duo_close(&d);
}

TEST(what_cannot_be_made_equal_is_set_aside_and_the_proof_fails)
{
	struct buf says = BUF_INIT;

	CHECK(two_mailboxes());
	more_in(&A);
	forget("box/a");
	comparisons = 0;
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, &says), ERR_SUM);
	CHECK_EQ(comparisons, 1);
	CHECK(strstr(buf_str(&says), "1 set aside here: box/a") != NULL);
	CHECK(strstr(buf_str(&says), "compared") != NULL);
	/* Comparing once more would find the same. */
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, &says), ERR_SUM);
	CHECK_EQ(comparisons, 1);
	CHECK(strstr(buf_str(&says), "1 set aside") != NULL);
	duo_sh("test -e %s/box/a/4.", d.root_b);
	buf_fini(&says);
	duo_close(&d);
}

/* Set aside on the active side: no comparison can make it equal. */
TEST(the_proof_names_what_is_set_aside_here)
{
	struct buf says = BUF_INIT;

	CHECK(two_mailboxes());
	rig_append(&A, 400);
	duo_commit(&d, &A);
	duo_sh("rm %s/box/a/4.", d.root_a);
	comparisons = 0;
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, &says), ERR_SUM);
	CHECK(strstr(buf_str(&says), "1 set aside here: box/a\n") != NULL);
	CHECK_EQ(comparisons, 0);
	buf_fini(&says);
	duo_close(&d);
}

static bool
lists(const struct sync_facts *f, void *arg)
{
	unsigned seen = 0, n = *(unsigned *)arg;

	for (unsigned i = 0; i < f->n_peer_listed; i++) {
		const struct sync_quarantine_facts *q = &f->peer_quarantined[i];
		seen |= strcmp(q->dir, "box/a") == 0 ? 1 : 2;
		if (strcmp(q->check, "has-more") != 0 || q->uid != 4)
			return false;
	}
	return f->peers[0].n_quarantined == n && f->n_peer_listed == n &&
	       (n < 2 || seen == 3);
}

TEST(the_active_lists_all_that_is_set_aside_there)
{
	unsigned two = 2, one = 1;

	CHECK(two_mailboxes());
	more_in(&A);
	more_in(&B);
	forget("box/a");
	forget("box/b");
	duo_start_b(&d);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	CHECK(duo_until(&d, lists, &two));
	/* another life of the active is told again */
	duo_stop_a(&d, true);
	duo_start_a(&d);
	CHECK(duo_until(&d, lists, &two));
	/* and one that is cured is off the list */
	duo_sh("rm -r %s/box/a", d.root_b);
	CHECK(duo_until(&d, lists, &one));
	duo_close(&d);
}

static void
move(const char *from, const char *to)
{
	struct sync_moving *m;

	CHECK_EQ(sync_note(d.sync, from, 0), 0);
	CHECK_EQ(sync_note(d.sync, to, 0), 0);
	CHECK_EQ(sync_move_begin(d.sync, sync_names(d.sync), from, to, &m), 0);
	CHECK_EQ(spool_move(d.spool, from, to), 0);
	sync_move_end(d.sync, m, SYNC_MOVED);
}

static bool
lists_that(const struct sync_facts *f, void *arg)
{
	return f->n_peer_listed == 1 && f->peers[0].n_quarantined == 1 &&
	       strcmp(f->peer_quarantined[0].dir, arg) == 0 &&
	       strcmp(f->peer_quarantined[0].check, "has-more") == 0;
}

static bool
lists_nothing(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->peers[0].n_quarantined == 0;
}

/* What the standby holds there is not to change by that, whatever the active side goes on to do. */
static void
has_more_and_is_moved(const char *from, const char *to, char *dir)
{
	static struct rig new;
	unsigned one = 1;

	CHECK(two_mailboxes());
	more_in(&A);
	forget("box/a");
	duo_start_b(&d);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	CHECK(duo_until(&d, lists, &one));
	duo_sh("cp -a %s/box/a %s.before", d.root_b, d.root_b);
	asides = 0;
	move(from, to);
	snprintf(A.dir, sizeof(A.dir), "%s", dir);
	if (strcmp(from, "box") == 0)
		snprintf(B.dir, sizeof(B.dir), "%s/b", to);
	/* the UID that it has lost, and a change of all that there is */
	rig_append(&A, 200);
	rig_flag(&A, 1, 1);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, lists_that, dir));
	duo_sh("diff -r %s.before %s/%s", d.root_b, d.root_b, dir);
	CHECK_EQ(asides, 0); /* it went with its folder: nobody had to find it again */
	/* in other lives as well */
	duo_stop_b(&d, true);
	duo_start_b(&d);
	rig_flag(&A, 2, 1);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, lists_that, dir));
	duo_sh("diff -r %s.before %s/%s", d.root_b, d.root_b, dir);
	/* who gets its old name has nothing to do with it */
	duo_create(&d, &new, "box/a", "id-new");
	rig_append(&new, 100);
	duo_commit(&d, &new);
	CHECK(duo_settled(&d));
	CHECK(duo_exists(d.root_b, "box/a/1."));
	CHECK(duo_until(&d, lists_that, dir));
	/* and hands cure it under its new name */
	duo_sh("rm -r %s/%s", d.root_b, dir);
	CHECK(duo_until(&d, lists_nothing, NULL));
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	duo_stop_equal(&d);
	duo_close(&d);
}

TEST(what_has_more_and_is_moved_stays_as_it_is)
{
	char dir[] = "box/z";

	has_more_and_is_moved("box/a", dir, dir);
}

TEST(so_it_does_with_a_folder_above_it)
{
	char dir[] = "crate/a";

	has_more_and_is_moved("box", "crate", dir);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
