/*
 * test_beyond.c - an active side that has forgotten: put back to an older copy, or cut off from its
 * last writes. The standby has more, and must not lose it (design 7: a peer whose old run reaches
 * beyond our journal).
 *
 * pwrite and fdatasync are this program's own: a standby whose environment says BEYOND_DIES=N dies
 * before the Nth transaction of its state.db.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned dies; /* before that many more transactions; 0: never */
static bool within; /* one */

enum { FRAME_HEAD = 24 }; /* bytes that SQLite writes before each page of its log */

static bool
is_state(int fd)
{
	static const char log[] = "/state.db-wal";
	char link[64], path[600];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = dies != 0 ? readlink(link, path, sizeof(path)) : -1;
	return n >= (ssize_t)strlen(log) &&
	       memcmp(path + n - strlen(log), log, strlen(log)) == 0;
}

ssize_t
pwrite(int fd, const void *p, size_t n, off_t at)
{
	if (n == FRAME_HEAD && is_state(fd) && !within) {
		within = true;
		if (--dies == 0)
			raise(SIGKILL);
	}
	return syscall(SYS_pwrite64, fd, p, n, at);
}

int
fdatasync(int fd)
{
	int rc = (int)syscall(SYS_fdatasync, fd);

	if (is_state(fd))
		within = false;
	return rc;
}

static struct duo d;
static struct rig A, B;

static _Atomic int beyonds; /* how often a peer was found to be beyond the journal */

static void
on_log(enum log_level level, const char *line)
{
	if (strstr(line, "beyond the journal") != NULL)
		beyonds++;
	duo_log(level, line);
}

static bool
begin(void)
{
	bool ok = duo_two(&d, &A, &B);

	beyonds = 0;
	log_set_hook(on_log);
	return ok;
}

static struct rig old_A, old_B;

static void
remember(void)
{
	old_A = A;
	old_B = B;
	duo_sh("cp -a %s %s.old && cp -a %s %s.old", d.root_a, d.root_a, d.state_a,
		d.state_a);
}

static void
put_back(void)
{
	duo_sh("rm -r %s %s && cp -a %s.old %s && cp -a %s.old %s", d.root_a, d.state_a,
		d.root_a, d.root_a, d.state_a, d.state_a);
	A = old_A;
	B = old_B;
}

/* What became of the UIDs that the standby knows, on an active side that was put back. */
enum reuse {
	NOT_GIVEN,
	GIVEN, /* to other messages */
	GIVEN_AND_PURGED, /* and those are gone again, with their records */
	ONLY_FLAGS /* none: a flag was lost, under a modseq that another one has now */
};

static const char *
active_says(void)
{
	static struct sync_facts f;

	sync_facts(d.sync, &f);
	return f.peers[0].error;
}

static void
meanwhile(enum reuse how)
{
	uint32_t first = A.h.last_uid + 1;

	if (how == GIVEN || how == GIVEN_AND_PURGED)
		for (int i = 0; i < 2; i++) {
			rig_append(&A, 301);
			duo_commit(&d, &A);
		}
	if (how == GIVEN_AND_PURGED) {
		rig_expunge(&A, first);
		rig_expunge(&A, first + 1);
		duo_commit(&d, &A);
		rig_unlink(&A, first);
		rig_unlink(&A, first + 1);
		duo_commit(&d, &A);
		duo_cleanup(&d, &A);
	}
	for (int i = 0; i < 6; i++) {
		rig_flag(&A, 1, 1);
		duo_commit(&d, &A);
	}
}

static uint8_t lost[2][SHA1_LEN]; /* the messages that only the standby has */

/* The active side is put back to what it was before two messages came, which the standby has; then
 * it gives those UIDs to others, and its journal grows beyond the standby's position. The standby is
 * down. clean: the copy is of a clean stop. */
static void
put_back_to_older(bool clean, enum reuse how)
{
	CHECK(begin());
	duo_stop_a(&d, clean);
	remember();
	duo_start_a(&d);
	for (int i = 0; i < 2; i++) {
		if (how != ONLY_FLAGS)
			rig_append(&A, 300);
		else
			rig_flag(&A, 2, 1u << (i + 1));
		memcpy(lost[i], A.rec[A.h.num_records - 1].guid, SHA1_LEN);
		duo_commit(&d, &A);
		rig_append(&B, 100);
		duo_commit(&d, &B);
	}
	CHECK(duo_settled(&d));
	duo_stop_a(&d, clean);
	duo_stop_b(&d, false);
	duo_sh("cp -a %s/box %s.box", d.root_b, d.root_b);
	put_back();
	duo_start_a(&d);
	meanwhile(how);
	beyonds = 0;
}

static void
an_older_copy(bool clean, enum reuse how)
{
	put_back_to_older(clean, how);
	duo_start_b(&d);
	CHECK(duo_until(&d, duo_says_aside, NULL));
	CHECK_EQ(beyonds, 1);
	/* B too, of which the journal says nothing: all mailboxes are compared */
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	CHECK(strstr(active_says(), "uid=") != NULL);
	CHECK(strstr(active_says(), "check=has-more") != NULL);
	/* nor is it tried again, and then done, in another session, life or comparison */
	duo_stop_b(&d, false);
	duo_stop_a(&d, false);
	d.journal_size = 20000;
	duo_start_a(&d);
	for (int i = 0; i < 200; i++) {
		rig_append(&B, 100);
		duo_commit(&d, &B);
	}
	CHECK(duo_until(&d, duo_says_behind, NULL));
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	CHECK_EQ(duo_standby(&d).asides, 2);
	CHECK_STR(duo_standby(&d).check, "has-more");
	CHECK(strstr(duo_standby(&d).text, "spool") != NULL);
	CHECK(duo_has(d.root_b, lost[0]) && duo_has(d.root_b, lost[1]));
	CHECK_EQ(duo_kept(d.root_b), 0);
	duo_sh("diff -r %s/box %s.box", d.root_b, d.root_b);
	duo_close(&d);
}

TEST(an_older_copy_of_the_active_takes_nothing_from_the_standby)
{
	an_older_copy(true, NOT_GIVEN);
}

TEST(nor_one_of_a_crash)
{
	an_older_copy(false, NOT_GIVEN);
}

TEST(nor_one_that_gave_the_same_uids_to_others)
{
	an_older_copy(true, GIVEN);
}

TEST(nor_one_that_gave_them_away_and_expunged_those)
{
	an_older_copy(true, GIVEN_AND_PURGED);
}

TEST(nor_does_it_take_a_flag_back)
{
	an_older_copy(true, ONLY_FLAGS);
}

/* A life of the standby: it meets the active side and is asked to stop, or dies before. Did it die? */
static bool
dies_before(unsigned n)
{
	uint64_t end = clock_ms() + DUO_WAIT_MS;
	int status = 0;
	char number[16];
	bool over = false;

	snprintf(number, sizeof(number), "%u", n);
	setenv("BEYOND_DIES", number, 1);
	duo_start_b(&d);
	unsetenv("BEYOND_DIES");
	while (!(over = waitpid(d.b, &status, WNOHANG) == d.b) && clock_ms() < end &&
		sync_wait(d.sync, 10, NULL, NULL, NULL) != 0)
		continue;
	close(d.b_stdin);
	if (!over && waitpid(d.b, &status, 0) != d.b)
		abort();
	d.b = 0;
	return WIFSIGNALED(status);
}

/* A comparison that is cut off begins again as that of a peer at a known position: what it may not
 * take is remembered until the peer has that on disk. The standby dies before each transaction of its
 * state, and every other time the active side is killed as well. */
TEST(nor_where_the_comparison_is_cut_off_at_any_step)
{
	unsigned cut_off = 0;

	put_back_to_older(true, GIVEN_AND_PURGED);
	struct pos old = duo_standby(&d).received;
	/* its clean stop is forgotten: from here on its first transaction is of the comparison */
	CHECK(dies_before(2));
	for (unsigned n = 1; n < 40 && dies_before(n); n++) {
		struct duo_standby h = duo_standby(&d);
		cut_off += h.received.run != old.run && h.asides == 0;
		CHECK(duo_has(d.root_b, lost[0]) && duo_has(d.root_b, lost[1]));
		if (n % 2 == 0)
			continue;
		duo_stop_a(&d, false);
		duo_start_a(&d);
	}
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	CHECK_EQ(duo_standby(&d).asides, 2);
	CHECK(duo_has(d.root_b, lost[0]) && duo_has(d.root_b, lost[1]));
	duo_sh("diff -r %s/box %s.box", d.root_b, d.root_b);
	/* it had its new position, and had not noted what it may not lose */
	CHECK(cut_off > 0);
	duo_close(&d);
}

/* A power cut takes the tail of the journal, which is not synced; the spool is whole. */
TEST(a_lost_tail_of_the_journal_is_no_reason_to_resume)
{
	CHECK(begin());
	duo_stop_a(&d, false);
	duo_sh("mkdir %s/old && cp -a %s/journal.db* %s/old", d.state_a, d.state_a,
		d.state_a);
	duo_start_a(&d);
	for (int i = 0; i < 3; i++) {
		rig_append(&A, 300);
		duo_commit(&d, &A);
		rig_append(&B, 100);
		duo_commit(&d, &B);
	}
	CHECK(duo_settled(&d));
	duo_stop_a(&d, false);
	duo_stop_b(&d, false);
	duo_sh("rm %s/journal.db* && mv %s/old/* %s", d.state_a, d.state_a, d.state_a);
	beyonds = 0;
	duo_start_a(&d);
	/* as many rows again as the standby has of the lost ones, and more */
	for (int i = 0; i < 12; i++) {
		rig_flag(&A, 1, 1);
		duo_commit(&d, &A);
	}
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(beyonds, 1);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_close(&d);
}

/* The disk of the active loses a mailbox's last writes, which the standby has. */
TEST(writes_that_a_disk_lost_stay_on_the_standby)
{
	uint8_t message[SHA1_LEN];

	CHECK(begin());
	duo_sh("cp -a %s/box/a %s/../box-a.old", d.root_a, d.root_a);
	old_A = A;
	rig_append(&A, 300);
	memcpy(message, A.rec[A.h.num_records - 1].guid, SHA1_LEN);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	duo_stop_a(&d, false);
	duo_sh("rm -r %s/box/a && mv %s/../box-a.old %s/box/a", d.root_a, d.root_a,
		d.root_a);
	A = old_A;
	duo_start_a(&d);
	rig_flag(&A, 1, 1);
	duo_commit(&d, &A);
	CHECK(duo_until(&d, duo_says_aside, NULL));
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	CHECK(duo_has(d.root_b, message));
	CHECK(duo_exists(d.root_b, "box/a/4."));
	CHECK_EQ(duo_standby(&d).asides, 1);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	const char *n = getenv("BEYOND_DIES");

	dies = n != NULL ? (unsigned)atoi(n) : 0;
	duo_main(argc, argv);
	return t_main(argc, argv);
}
