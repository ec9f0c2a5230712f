/*
 * test_withheld.c - a mailbox that is set aside on the active side, of which nothing reaches the
 * standby: what it says of messages that were moved into it is withheld, what the mailbox they came
 * from says is not. Their last copy on the standby must not go with that.
 */
#include "meta/base/clock.h"
#include "meta/base/hash.h"
#include "meta/scan.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct duo d;
static struct rig A, B, C;

/* MOVE, and what Cyrus cleans up some time later. what_b: how the copy is committed. */
static void
move_to_b(uint32_t uid, void (*commit_b)(void))
{
	duo_copy(&d, &B, &A, uid);
	commit_b();
	duo_expunge(&d, &A, uid);
	duo_cleanup(&d, &A);
}

static void
commit(void)
{
	duo_commit(&d, &B);
}

/* A bad block in the first record of the index, which is read as a whole. */
static void
commit_damaged_of(struct rig *g)
{
	struct sync_commit c = { .dir = g->dir, .derive = true };

	rig_commit(g);
	duo_sh("printf xxxx | dd of=%s/%s/cyrus.index bs=1 conv=notrunc seek=%u "
	       "status=none",
		d.root_a, g->dir, (unsigned)g->h.start_offset + 40);
	sync_commit(d.sync, &c);
	g->n_touched = 0;
}

static void
commit_damaged(void)
{
	commit_damaged_of(&B);
}

static bool
is_aside(const struct sync_facts *f, void *arg)
{
	return f->n_quarantined == *(const unsigned *)arg;
}

static const unsigned none = 0, one = 1, two = 2;

static bool
until_aside(const unsigned *count)
{
	return duo_until(&d, is_aside, (void *)count);
}

/* Fifteen messages in A, one in B. */
static bool
begin(void)
{
	if (!duo_two(&d, &A, &B))
		return false;
	for (int i = 0; i < 12; i++)
		rig_append(&A, 300);
	duo_commit(&d, &A);
	rig_append(&B, 400);
	duo_commit(&d, &B);
	return duo_settled(&d);
}

static uint8_t guid[SHA1_LEN];

/* The standby has done all that it was told, and the message is there. */
static bool
b_still_has_it(void)
{
	return duo_settled(&d) && !duo_exists(d.root_b, "box/a/1.") &&
	       duo_has(d.root_b, guid);
}

/* It is as it was before, and told. */
static void
heal(void)
{
	rig_flag(&B, 1, 1);
	duo_commit(&d, &B);
}

static bool
prove(void)
{
	uint64_t give_up = clock_ms() + DUO_WAIT_MS;

	while (sync_prove(d.sync, 1000, NULL, NULL, NULL) != 0)
		if (clock_ms() > give_up)
			return false;
	return true;
}

/* Nothing of B is journaled. */
TEST(a_message_moved_into_a_mailbox_that_cannot_be_read_survives)
{
	CHECK(begin());
	memcpy(guid, A.rec[0].guid, SHA1_LEN);
	move_to_b(1, commit_damaged);
	CHECK(until_aside(&one));
	CHECK(b_still_has_it());
	/* nor does another life of the standby forget it, with a removal left from the last one */
	duo_stop_b(&d, true);
	memcpy(guid, A.rec[0].guid, SHA1_LEN);
	move_to_b(A.rec[0].uid, commit_damaged);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK(duo_has(d.root_b, guid));
	heal();
	CHECK(prove());
	duo_stop_equal(&d);
	duo_close(&d);
}

/* Its rows are in the journal when a message turns out not to be what its record says. */
TEST(so_does_one_of_whose_rows_none_is_sent)
{
	CHECK(begin());
	memcpy(guid, A.rec[0].guid, SHA1_LEN);
	duo_stop_b(&d, false);
	rig_append(&B, 400);
	duo_commit(&d, &B);
	duo_sh("mv %s/box/b/2. %s/saved", d.root_a, d.root_a);
	move_to_b(1, commit);
	duo_start_b(&d);
	CHECK(until_aside(&one));
	CHECK(b_still_has_it());
	duo_sh("mv %s/saved %s/box/b/2.", d.root_a, d.root_a);
	heal();
	CHECK(prove());
	duo_stop_equal(&d);
	duo_close(&d);
}

/* What a standby removes once all is well again is gone. */
TEST(nothing_is_kept_any_more_when_it_is_healed)
{
	unsigned kept;
	uint64_t give_up = clock_ms() + DUO_WAIT_MS;

	CHECK(begin());
	move_to_b(1, commit_damaged);
	CHECK(until_aside(&one));
	CHECK(duo_settled(&d));
	heal();
	CHECK(until_aside(&none));
	do {
		CHECK(clock_ms() < give_up && A.h.num_records > 1);
		CHECK(prove());
		kept = duo_kept(d.root_b);
		rig_expunge(&A, A.rec[0].uid);
		rig_unlink(&A, A.rec[0].uid);
		duo_commit(&d, &A);
		duo_cleanup(&d, &A);
		CHECK(duo_settled(&d));
		usleep(50000);
	} while (duo_kept(d.root_b) != kept);
	duo_stop_equal(&d);
	duo_close(&d);
}

static bool
has_all_rows(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->peers[0].received == f->position.seq;
}

/* The cure is a row, and one before it removes. */
static void
removal_before_cure(bool restart)
{
	char path[100], hex[2 * SHA1_LEN + 1], go[320];

	CHECK(begin());
	duo_create(&d, &C, "box/c", "id-c");
	CHECK(duo_settled(&d));
	hash_hex(A.rec[0].guid, SHA1_LEN, hex);
	snprintf(path, sizeof(path), ".twinspool/kept/%s", hex);
	duo_stop_b(&d, false);
	snprintf(go, sizeof(go), "%s.go", d.root_b);
	setenv("DUO_GO", go, 1);
	setenv("DUO_SLOW", "box/c", 1);
	duo_start_b(&d);
	unsetenv("DUO_SLOW");
	rig_append(&C, 300);
	duo_commit(&d, &C);
	move_to_b(1, commit_damaged);
	CHECK(until_aside(&one));
	heal();
	CHECK(until_aside(&none));
	CHECK(duo_until(&d, has_all_rows, NULL));
	if (restart) {
		duo_stop_a(&d, false);
		duo_start_a(&d);
		CHECK(duo_until(&d, has_all_rows, NULL));
	}
	usleep(500000); /* time enough to say that it is over */
	CHECK(duo_exists(d.root_b, "box/a/1."));
	duo_sh("touch %s", go);
	CHECK(duo_settled(&d));
	CHECK(!duo_exists(d.root_b, "box/a/1."));
	CHECK(duo_exists(d.root_b, path));
	duo_stop_equal(&d);
	duo_close(&d);
}

TEST(what_is_removed_before_the_cure_has_come_is_kept)
{
	removal_before_cure(false);
}

TEST(also_if_the_active_side_has_begun_anew)
{
	removal_before_cure(true);
}

/* Without another change, and also if it never heard of the mailbox. */
TEST(what_is_healed_while_the_peer_is_away_is_stated)
{
	CHECK(begin());
	duo_stop_b(&d, false);
	rig_append(&B, 400);
	duo_commit(&d, &B);
	duo_sh("mv %s/box/b/2. %s/saved", d.root_a, d.root_a);
	duo_create(&d, &C, "box/c", "id-c");
	rig_append(&C, 400);
	commit_damaged_of(&C);
	duo_start_b(&d);
	CHECK(until_aside(&two));
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	CHECK(!duo_exists(d.root_b, "box/c"));
	duo_sh("mv %s/saved %s/box/b/2.", d.root_a, d.root_a);
	rig_commit(&C);
	CHECK(until_aside(&none));
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	duo_close(&d);
}

/* One of an older version is told nothing that it would not understand. */
TEST(a_standby_of_an_older_version_goes_on)
{
	CHECK(begin());
	duo_stop_b(&d, false);
	setenv("DUO_OLD", "1", 1);
	duo_start_b(&d);
	unsetenv("DUO_OLD");
	rig_append(&B, 400);
	commit_damaged();
	CHECK(until_aside(&one));
	rig_append(&A, 400);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK(duo_exists(d.root_b, "box/a/16."));
	heal();
	CHECK(prove());
	duo_stop_equal(&d);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
