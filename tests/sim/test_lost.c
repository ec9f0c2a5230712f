/*
 * test_lost.c - journal.db is lost: moved away because it was damaged, as the log advises, or put
 * back from an older copy. Whoever lost it adopts its spool anew and is compared; nothing is
 * deleted, and nothing set aside.
 *
 * A start that is to die is a fork of this program; the line of the log that names the moment
 * kills it.
 */
#include "meta/base/log.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct duo d;
static struct rig A, B, C;
static _Atomic int behinds, beyonds, streams, adoptions;

static void
on_log(enum log_level level, const char *line)
{
	duo_log(level, line);
	behinds += strstr(line, "because: behind the journal") != NULL;
	beyonds += strstr(line, "because: beyond the journal") != NULL;
	streams += strstr(line, "because: stream") != NULL;
	adoptions += strstr(line, "spool adopted") != NULL;
}

static void
start_a(void)
{
	behinds = beyonds = streams = adoptions = 0;
	duo_start_a(&d);
}

static bool
three_mailboxes(void)
{
	log_set_hook(on_log);
	duo_open(&d);
	duo_start_b(&d);
	start_a();
	duo_create(&d, &A, "box/a", "id-a");
	duo_create(&d, &B, "box/b", "id-b");
	duo_create(&d, &C, "box/c", "id-c");
	for (int i = 0; i < 4; i++) {
		rig_append(&A, 500);
		rig_append(&B, 500);
		rig_append(&C, 500);
	}
	duo_commit(&d, &A);
	duo_commit(&d, &B);
	duo_commit(&d, &C);
	return duo_settled(&d);
}

/* While the standby is away: a message comes, one is purged, a flag changes. */
static void
change(void)
{
	rig_append(&A, 300);
	duo_commit(&d, &A);
	rig_expunge(&B, 2);
	duo_commit(&d, &B);
	rig_unlink(&B, 2);
	duo_commit(&d, &B);
	duo_cleanup(&d, &B);
	rig_flag(&C, 1, 1);
	duo_commit(&d, &C);
}

/* Proven, equal, whole, and no mailbox set aside. */
static void
equal_at_last(void)
{
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_close(&d);
}

TEST(an_active_without_its_journal_adopts_its_spool_and_compares)
{
	CHECK(three_mailboxes());
	duo_stop_b(&d, false);
	change();
	duo_stop_a(&d, false);
	duo_sh("rm %s/journal.db*", d.state_a);
	start_a();
	CHECK_EQ(adoptions, 1);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(behinds, 1);
	CHECK_EQ(beyonds, 0);
	/* and lives on as before */
	duo_stop_b(&d, false);
	rig_append(&C, 300);
	duo_commit(&d, &C);
	duo_stop_a(&d, true);
	start_a();
	CHECK_EQ(adoptions, 0);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(streams, 1);
	equal_at_last();
}

TEST(one_that_is_killed_over_it_has_an_heir)
{
	static const char *const lines[] = { "is new or not the one",
		"journal run opened", "spool adopted" };

	CHECK(three_mailboxes());
	duo_stop_b(&d, false);
	change();
	duo_stop_a(&d, true);
	duo_sh("rm %s/journal.db*", d.state_a);
	for (int i = 0; i < 3; i++)
		duo_killed_at(&d, lines[i]);
	/* "spool adopted" is said when all is stored */
	start_a();
	CHECK_EQ(adoptions, 0);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(behinds, 1);
	equal_at_last();
}

/* The power goes with the first adoption: of journal.db nothing is left. */
TEST(one_whose_power_is_cut_over_it_begins_again)
{
	CHECK(three_mailboxes());
	duo_stop_b(&d, false);
	change();
	duo_stop_a(&d, true);
	duo_sh("rm %s/journal.db*", d.state_a);
	duo_killed_at(&d, "journal run opened");
	duo_sh("rm %s/journal.db*", d.state_a);
	duo_killed_at(&d, "journal run opened");
	start_a();
	CHECK_EQ(adoptions, 1);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(behinds, 1);
	equal_at_last();
}

/* A mailbox came since the copy was made: neither is it forgotten, nor is it taken for removed. */
TEST(an_older_copy_of_the_journal_is_as_good_as_none)
{
	CHECK(three_mailboxes());
	duo_stop_a(&d, true);
	duo_sh("mkdir %s/old && cp -a %s/journal.db* %s/old", d.state_a, d.state_a,
		d.state_a);
	start_a();
	rig_fini(&C);
	duo_create(&d, &C, "box/d", "id-d");
	rig_append(&C, 300);
	duo_commit(&d, &C);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	change();
	duo_stop_a(&d, true);
	duo_sh("rm %s/journal.db* && mv %s/old/* %s", d.state_a, d.state_a, d.state_a);
	start_a();
	CHECK_EQ(adoptions, 1);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(behinds, 1);
	equal_at_last();
}

/* What the standby has of a mailbox is not what it had: only a comparison tells. */
TEST(a_standby_without_its_journal_is_compared)
{
	CHECK(three_mailboxes());
	duo_sh("cp -a %s/box/a %s/../box-a.old", d.root_b, d.root_b);
	rig_append(&A, 300);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, true);
	change();
	duo_sh("rm %s/journal.db*", d.state_b);
	duo_sh("rm -r %s/box/a && mv %s/../box-a.old %s/box/a", d.root_b, d.root_b,
		d.root_b);
	behinds = streams = 0;
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(behinds, 1);
	CHECK_EQ(streams, 0);
	/* That was said once: */
	duo_stop_b(&d, false);
	duo_start_b(&d);
	rig_append(&A, 300);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK_EQ(streams, 1);
	equal_at_last();
}

/* Killed early or late, before it could say so: it says so the next time. */
TEST(a_standby_that_is_killed_over_it_is_compared_all_the_same)
{
	char path[400];

	CHECK(three_mailboxes());
	duo_stop_b(&d, false);
	duo_stop_a(&d, true);
	snprintf(path, sizeof(path), "%s/journal.db", d.state_b);
	duo_sh("rm %s/journal.db*", d.state_b);
	duo_start_b(&d);
	for (int i = 0; access(path, F_OK) != 0 && i < 100000; i++)
		usleep(200);
	duo_stop_b(&d, true);
	start_a();
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(behinds, 1);
	equal_at_last();
}

static _Atomic int set_aside;

static void
on_log_aside(enum log_level level, const char *line)
{
	set_aside += strstr(line, "mailbox set aside") != NULL;
	on_log(level, line);
}

static bool
is_asked_for(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->peers[0].mailboxes_total > 0;
}

/* The comparison meets a mailbox that rm -r is about to take away: half of it is gone. */
TEST(a_mailbox_in_the_middle_of_its_removal_is_waited_for)
{
	CHECK(three_mailboxes());
	duo_stop_b(&d, false);
	log_set_hook(on_log_aside);
	set_aside = 0;
	duo_sh("rm %s/journal.db* %s/box/a/cyrus.index", d.state_b, d.root_b);
	CHECK_EQ(sync_note_leaving(d.sync, "box/a", 0), 0);
	duo_sh("rm %s/box/a/cyrus.header %s/box/a/2.", d.root_a, d.root_a);
	duo_start_b(&d);
	CHECK(duo_until(&d, is_asked_for, NULL));
	duo_sh("rm -r %s/box/a", d.root_a);
	sync_path(d.sync, "box/a", 0, NULL, NULL);
	CHECK(duo_settled(&d));
	CHECK_EQ(set_aside, 0);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	CHECK(!duo_exists(d.root_b, "box/a/cyrus.header"));
	duo_close(&d);
}

/* Called while its commit holds the mailbox: whoever is about to compare it waits for that. */
static bool
takes_a_while(void *arg, bool odd)
{
	(void)arg, (void)odd;
	usleep(200000);
	return false;
}

/* The comparison looks at a mailbox again and again, and in between it is removed. */
TEST(a_mailbox_whose_removal_commits_while_it_is_compared_is_removed)
{
	CHECK(three_mailboxes());
	duo_stop_b(&d, false);
	duo_sh("rm %s/journal.db*", d.state_b);
	rig_append(&A, 500);
	duo_commit(&d, &A);
	CHECK_EQ(sync_note_leaving(d.sync, "box/a", 0), 0);
	duo_sh("rm %s/box/a/cyrus.header", d.root_a);
	duo_start_b(&d);
	CHECK(duo_until(&d, is_asked_for, NULL));
	rig_options(&A, A.h.options | INDEX_OPT_DELETED);
	rig_commit(&A);
	struct sync_commit c = {
		.dir = "box/a", .patient = true, .disturbed = takes_a_while
	};
	CHECK_EQ(sync_commit(d.sync, &c), 0);
	duo_sh("rm -r %s/box/a", d.root_a);
	sync_path(d.sync, "box/a", 0, NULL, NULL);
	CHECK(duo_settled(&d));
	CHECK(!duo_exists(d.root_b, "box/a/cyrus.index"));
	duo_stop_b(&d, false);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
