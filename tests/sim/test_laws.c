/*
 * test_laws.c - sentences of the design each of which closes a way to lose mail, as stories of a
 * real pair (tests/lib/duo.h).
 *
 * syncfs is this program's own, so that a standby can have a disk that never ends a sync: what
 * it wrote since is then taken away again, as a power cut would. So is pwrite, for a standby whose
 * disk keeps something else of the mailbox id-b's cyrus.header than was written.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/scan.h"
#include "sync/epoch.h"
#include "sync/inbox.h"
#include "sync/journal.h"
#include "sync/store.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool disk_hangs, header_lies;

ssize_t
pwrite(int fd, const void *p, size_t n, off_t at)
{
	static const char magic[] = "\241\002\213\015Cyrus mailbox header";
	uint8_t other[4000];

	if (header_lies && n > sizeof(magic) && n <= sizeof(other) &&
		memcmp(p, magic, sizeof(magic) - 1) == 0 &&
		memmem(p, n, "id-b", 4) != NULL) {
		memcpy(other, p, n);
		other[n - 1] ^= 1;
		p = other;
	}
	return syscall(SYS_pwrite64, fd, p, n, at);
}

int
syncfs(int fd)
{
	while (disk_hangs)
		pause();
	return (int)syscall(SYS_syncfs, fd);
}

static struct duo d;
static struct rig A, B;

static _Atomic int beyonds; /* how often a peer was found to be beyond the journal */

static void
on_log(enum log_level level, const char *line)
{
	if (strstr(line, "beyond the journal") != NULL)
		beyonds++;
	if (getenv("SIM_DEBUG") != NULL)
		fprintf(stderr, "# a: %d %s\n", (int)level, line);
}

static void
start_a(void)
{
	duo_start_a(&d);
	A.sp = B.sp = d.spool;
}

/* Two mailboxes, the first with three messages, on both sides. */
static bool
two_mailboxes(void)
{
	log_set_hook(on_log);
	if (getenv("SIM_DEBUG") != NULL)
		log_set_level(LOG_LEVEL_DEBUG);
	duo_open(&d);
	duo_start_b(&d);
	start_a();
	duo_create(&d, &A, "box/a", "id-a");
	duo_create(&d, &B, "box/b", "id-b");
	for (int i = 0; i < 3; i++)
		rig_append(&A, 500);
	duo_commit(&d, &A);
	return duo_settled(&d);
}

static void
end(void)
{
	duo_close(&d);
	rig_fini(&A);
	rig_fini(&B);
}

/* MOVE, as Cyrus does it: the copy is committed, then the original expunged; the cleanup comes
 * when nobody has the mailbox open. */
static void
move_to_b(uint32_t uid)
{
	char name[SCAN_BODY_NAME];
	struct stat st;

	B.sp = A.sp = d.spool;
	uint32_t to = rig_copy(&B, &A, uid);
	if (spool_stat(d.spool, B.dir, scan_body_name(to, name), &st) != 0)
		abort();
	sync_linked(d.sync, st.st_ino, A.dir, uid);
	sync_linked(d.sync, st.st_ino, B.dir, to);
	duo_commit(&d, &B);
	rig_expunge(&A, uid);
	duo_commit(&d, &A);
	rig_unlink(&A, uid);
	duo_commit(&d, &A);
	duo_cleanup(&d, &A);
}

/* Messages that only the standby has, in B there; it must be down. */
static void
standby_writes_in_b(unsigned n)
{
	struct spool *sp;

	if (spool_open(d.root_b, &sp) != 0)
		abort();
	struct rig other = B;
	other.sp = sp;
	other.old_index = NULL;
	other.n_touched = 0;
	for (unsigned i = 0; i < n; i++)
		rig_append(&other, 100);
	duo_commit_untold(&other);
	rig_fini(&other);
	spool_close(sp);
}

struct held {
	struct pos received, applied;
	uint64_t pending, asides;
	char check[64], text[600];
};

static int
first_aside(void *arg, const struct inbox_quarantine *q)
{
	struct held *h = arg;

	snprintf(h->check, sizeof(h->check), "%s", q->check);
	snprintf(h->text, sizeof(h->text), "%s", q->text);
	return 1;
}

/* What the standby's state says; it must be down. */
static struct held
standby_state(void)
{
	struct held h = { .asides = 0 };
	struct inbox_facts f;
	struct store *s;
	struct inbox *in;

	if (store_open(d.state_b, &s) != 0 || inbox_open(s, &in) != 0)
		abort();
	inbox_facts(in, &f);
	h.received = f.received;
	h.applied = f.applied;
	h.pending = f.pending;
	h.asides = inbox_quarantine_count(in);
	(void)inbox_quarantine_walk(in, first_aside, &h);
	inbox_close(in);
	store_close(s);
	return h;
}

static unsigned
kept_files(const char *root)
{
	char cmd[400];
	unsigned n = 0;

	snprintf(cmd, sizeof(cmd), "ls %s/.twinspool/kept | wc -l", root);
	FILE *f = popen(cmd, "re");
	if (f == NULL || fscanf(f, "%u", &n) != 1)
		abort();
	pclose(f);
	return n;
}

static bool
exists(const char *root, const char *path)
{
	char full[700];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	return access(full, F_OK) == 0;
}

static uint64_t
last_seq(void)
{
	static struct sync_facts f;

	sync_facts(d.sync, &f);
	return f.position.seq;
}

static bool
is_said(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return strstr(f->peers[0].error, " aside: ") != NULL;
}

/* Both at rest, and the same. */
static void
equal_at_last(void)
{
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	const char *how = duo_differ(&d, &A);
	if (how == NULL)
		how = duo_differ(&d, &B);
	if (how != NULL)
		t_fail(__FILE__, __LINE__, "they differ: %s", how);
}

/* ---- design 7: removals never overtake ---- */

TEST(a_message_moved_into_a_mailbox_that_is_set_aside_survives)
{
	uint8_t guid[SHA1_LEN];

	CHECK(two_mailboxes());
	memcpy(guid, A.rec[0].guid, SHA1_LEN);
	duo_stop_b(&d, false);
	standby_writes_in_b(3);
	duo_start_b(&d);
	move_to_b(1);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, true);
	CHECK_EQ(standby_state().asides, 1);
	CHECK(!exists(d.root_b, "box/a/1."));
	CHECK(duo_has(d.root_b, guid));
	/* nor does another life of the standby forget it */
	duo_start_b(&d);
	rig_flag(&A, 2, 1);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	CHECK_EQ(standby_state().asides, 1);
	CHECK(duo_has(d.root_b, guid));
	/* the cure that the quarantine names */
	CHECK(strstr(standby_state().text, "remove the mailbox") != NULL);
	duo_sh("rm -r %s/box/b", d.root_b);
	duo_start_b(&d);
	uint64_t give_up = clock_ms() + DUO_WAIT_MS;
	while (sync_prove(d.sync, 1000, NULL, NULL, NULL) != 0 && clock_ms() < give_up)
		usleep(20000);
	equal_at_last();
	CHECK_EQ(standby_state().asides, 0);
	CHECK(exists(d.root_b, "box/b/1."));
	end();
}

/* The same while rows of B are skipped because it is being compared. Now and then the comparison is
 * through before the removal is replayed, and then there is nothing to keep: so a few times. */
TEST(a_message_moved_into_a_mailbox_under_repair_survives)
{
	char path[100], hex[2 * SHA1_LEN + 1];
	bool kept = false;

	CHECK(two_mailboxes());
	for (uint32_t uid = 1; uid <= 3 && !kept; uid++) {
		uint8_t guid[SHA1_LEN];
		memcpy(guid, A.rec[0].guid, SHA1_LEN);
		duo_stop_b(&d, false);
		duo_sh("rm -r %s/box/b", d.root_b);
		hash_hex(guid, SHA1_LEN, hex);
		snprintf(path, sizeof(path), ".twinspool/kept/%s", hex);
		move_to_b(uid);
		duo_start_b(&d);
		CHECK(duo_settled(&d));
		CHECK(duo_has(d.root_b, guid));
		kept = exists(d.root_b, path);
	}
	CHECK(kept);
	equal_at_last();
	end();
}

/* ---- design 1 f: trouble in one mailbox stops that mailbox alone ---- */

TEST(a_mailbox_that_no_repair_helps_is_set_aside_at_last)
{
	CHECK(two_mailboxes());
	rig_append(&B, 200);
	duo_commit(&d, &B);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	setenv("LAWS_HEADER_LIES", "1", 1);
	duo_start_b(&d);
	unsetenv("LAWS_HEADER_LIES");
	uint64_t before = last_seq();
	rig_keyword(&B, 1, "odd");
	duo_commit(&d, &B);
	CHECK(duo_until(&d, is_said, NULL));
	/* each repair is a row: it was tried some times, and then no more */
	uint64_t tried = last_seq();
	CHECK(tried > before + 5 && tried < before + 50);
	rig_append(&A, 200);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	usleep(300000);
	CHECK_EQ(last_seq(), tried + 1);
	duo_stop_b(&d, false);
	struct held h = standby_state();
	CHECK_EQ(h.asides, 1);
	CHECK_STR(h.check, "read-back");
	CHECK(strstr(h.text, "remove") != NULL);
	/* the disk is well again, and the cure that is named helps */
	duo_sh("rm -r %s/box/b", d.root_b);
	duo_start_b(&d);
	uint64_t give_up = clock_ms() + DUO_WAIT_MS;
	while (sync_prove(d.sync, 1000, NULL, NULL, NULL) != 0 && clock_ms() < give_up)
		usleep(20000);
	equal_at_last();
	CHECK_EQ(standby_state().asides, 0);
	end();
}

/* ---- design 7: applied is recorded after the sync of the spool ---- */

static bool
is_visible_not_flushed(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->peers[0].applied == f->position.seq &&
	       f->peers[0].flushed < f->position.seq;
}

TEST(what_was_applied_and_not_synced_is_done_again)
{
	static struct sync_facts f;

	CHECK(two_mailboxes());
	duo_stop_b(&d, false);
	uint64_t synced = standby_state().applied.seq;
	duo_sh("cp -a %s %s.synced", d.root_b, d.root_b);
	setenv("LAWS_DISK_HANGS", "1", 1);
	duo_start_b(&d);
	unsetenv("LAWS_DISK_HANGS");
	for (int i = 0; i < 3; i++) {
		rig_append(&A, 700);
		rig_flag(&A, 2, 1);
		duo_commit(&d, &A);
	}
	move_to_b(1);
	rig_expunge(&A, 3);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, is_visible_not_flushed, NULL));
	/* Time enough for a recording, if nothing held it; and for a trim. */
	usleep(1000000);
	sync_facts(d.sync, &f);
	CHECK_EQ(f.peers[0].flushed, synced);
	CHECK(f.journal_first <= synced + 1);
	duo_stop_b(&d, true);
	CHECK_EQ(standby_state().applied.seq, synced);
	CHECK(standby_state().pending > 0);
	/* the power comes back: nothing written since the last sync of the spool is there */
	duo_sh("rm -r %s && mv %s.synced %s", d.root_b, d.root_b, d.root_b);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	equal_at_last();
	end();
}

/* And where all of it had reached the disk after all: done again over itself. */
TEST(what_was_applied_and_not_recorded_is_done_over_itself)
{
	CHECK(two_mailboxes());
	duo_stop_b(&d, false);
	setenv("LAWS_DISK_HANGS", "1", 1);
	duo_start_b(&d);
	unsetenv("LAWS_DISK_HANGS");
	for (int i = 0; i < 3; i++) {
		rig_append(&A, 700);
		duo_commit(&d, &A);
	}
	move_to_b(1);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, is_visible_not_flushed, NULL));
	duo_stop_b(&d, true);
	CHECK(standby_state().pending > 0);
	uint64_t last = last_seq();
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	/* in order and for what it is: nothing had to be stated anew */
	CHECK_EQ(last_seq(), last);
	equal_at_last();
	CHECK_EQ(standby_state().asides, 0);
	end();
}

/* ---- design 4: kept bodies and the journal's limits ---- */

static bool
is_behind(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return strcmp(f->peers[0].state, "behind") == 0;
}

static void
delete_all_of_a(void)
{
	for (uint32_t i = 0; i < A.h.num_records; i++)
		rig_expunge(&A, A.rec[i].uid);
	duo_commit(&d, &A);
	for (uint32_t i = 0; i < A.h.num_records; i++)
		rig_unlink(&A, A.rec[i].uid);
	duo_commit(&d, &A);
	duo_cleanup(&d, &A);
}

static bool
none_kept(const struct sync_facts *f, void *arg)
{
	(void)f, (void)arg;
	return kept_files(d.root_a) == 0;
}

TEST(kept_bodies_go_when_the_peer_has_confirmed)
{
	CHECK(two_mailboxes());
	duo_stop_b(&d, false);
	rig_append(&A, 3000);
	duo_commit(&d, &A);
	delete_all_of_a();
	CHECK(kept_files(d.root_a) > 0);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	/* What was kept while other things were queued counts them all as rows, and so may wait
	 * for the next one. */
	rig_append(&A, 300);
	duo_commit(&d, &A);
	CHECK(duo_until(&d, none_kept, NULL));
	equal_at_last();
	end();
}

TEST(kept_bodies_go_when_the_peer_falls_behind)
{
	CHECK(two_mailboxes());
	CHECK(duo_settled(&d));
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	d.journal_size = 20000;
	duo_start_b(&d);
	start_a();
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	rig_append(&A, 3000);
	duo_commit(&d, &A);
	delete_all_of_a();
	CHECK(kept_files(d.root_a) > 0);
	for (int i = 0; i < 200; i++) {
		rig_append(&B, 100);
		duo_commit(&d, &B);
	}
	CHECK(duo_until(&d, is_behind, NULL));
	CHECK(duo_until(&d, none_kept, NULL));
	/* nor does the journal itself grow for it */
	static struct sync_facts f;
	usleep(300000);
	sync_facts(d.sync, &f);
	CHECK(f.journal_bytes <= 2 * d.journal_size);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	equal_at_last();
	end();
}

/* ---- design 7: a peer whose old run reaches beyond our journal ---- */

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

/* The active side is put back to what it was before two messages came, which the standby has; then
 * it gives those UIDs to others, and its journal grows beyond the standby's position, before the
 * two meet. clean: the copy is of a clean stop. */
static void
an_older_copy(bool clean, enum reuse how)
{
	uint8_t lost[2][SHA1_LEN];

	CHECK(two_mailboxes());
	duo_stop_a(&d, clean);
	remember();
	start_a();
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
	start_a();
	meanwhile(how);
	beyonds = 0;
	duo_start_b(&d);
	CHECK(duo_until(&d, is_said, NULL));
	CHECK_EQ(beyonds, 1);
	/* B too, of which the journal says nothing: all mailboxes are compared */
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	CHECK(strstr(active_says(), "uid=") != NULL);
	CHECK(strstr(active_says(), "check=has-more") != NULL);
	/* nor is it tried again, and then done, in another session, life or comparison */
	duo_stop_b(&d, false);
	duo_stop_a(&d, false);
	d.journal_size = 20000;
	start_a();
	for (int i = 0; i < 200; i++) {
		rig_append(&B, 100);
		duo_commit(&d, &B);
	}
	CHECK(duo_until(&d, is_behind, NULL));
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), ERR_SUM);
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	CHECK_EQ(standby_state().asides, 2);
	CHECK_STR(standby_state().check, "has-more");
	CHECK(strstr(standby_state().text, "spool") != NULL);
	CHECK(duo_has(d.root_b, lost[0]) && duo_has(d.root_b, lost[1]));
	CHECK_EQ(kept_files(d.root_b), 0);
	duo_sh("diff -r %s/box %s.box", d.root_b, d.root_b);
	end();
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

/* A power cut takes the tail of the journal, which is not synced; the spool is whole. */
TEST(a_lost_tail_of_the_journal_is_no_reason_to_resume)
{
	CHECK(two_mailboxes());
	duo_stop_a(&d, false);
	duo_sh("mkdir %s/old && cp -a %s/journal.db* %s/old", d.state_a, d.state_a,
		d.state_a);
	start_a();
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
	start_a();
	/* as many rows again as the standby has of the lost ones, and more */
	for (int i = 0; i < 12; i++) {
		rig_flag(&A, 1, 1);
		duo_commit(&d, &A);
	}
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(beyonds, 1);
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	equal_at_last();
	CHECK_EQ(standby_state().asides, 0);
	end();
}

/* The disk of the active loses a mailbox's last writes, which the standby has. */
TEST(writes_that_a_disk_lost_stay_on_the_standby)
{
	uint8_t lost[SHA1_LEN];

	CHECK(two_mailboxes());
	duo_sh("cp -a %s/box/a %s/../box-a.old", d.root_a, d.root_a);
	old_A = A;
	rig_append(&A, 300);
	memcpy(lost, A.rec[A.h.num_records - 1].guid, SHA1_LEN);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	duo_stop_a(&d, false);
	duo_sh("rm -r %s/box/a && mv %s/../box-a.old %s/box/a", d.root_a, d.root_a,
		d.root_a);
	A = old_A;
	start_a();
	rig_flag(&A, 1, 1);
	duo_commit(&d, &A);
	CHECK(duo_until(&d, is_said, NULL));
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	CHECK(duo_has(d.root_b, lost));
	CHECK(exists(d.root_b, "box/a/4."));
	CHECK_EQ(standby_state().asides, 1);
	end();
}

/* ---- design 7: a stale active ---- */

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
	return strstr(f->peers[0].error, "later epoch") != NULL;
}

static void
a_stale_active(enum epoch_role role)
{
	static struct sync_facts f;
	struct buf lack = BUF_INIT;

	told_stale = 0;
	CHECK(two_mailboxes());
	duo_stop_b(&d, false);
	duo_stop_a(&d, false);
	promote_b(role);
	d.hooks.stale = on_stale;
	d.level = SYNC_APPLIED;
	start_a();
	CHECK(!sync_is_outdated(d.sync));
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
	usleep(300000);
	sync_facts(d.sync, &f);
	CHECK_EQ(f.later_epoch, 7);
	CHECK(strstr(f.outdated, "epoch 7") != NULL);
	CHECK(duo_until(&d, says_later_epoch, NULL));
	/* nor does it forget: the next life knows before it meets anybody */
	duo_stop_b(&d, true);
	duo_stop_a(&d, false);
	start_a();
	CHECK(sync_is_outdated(d.sync));
	CHECK_EQ(sync_wait(d.sync, 10 * DUO_WAIT_MS, NULL, NULL, NULL), ERR_ROLE);
	answer = 1;
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_answer, NULL));
	CHECK_EQ(answer, ERR_ROLE);
	/* and nothing was given to the other side */
	CHECK(!exists(d.root_b, "box/a/4."));
	buf_fini(&lack);
	end();
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
	disk_hangs = getenv("LAWS_DISK_HANGS") != NULL;
	header_lies = getenv("LAWS_HEADER_LIES") != NULL;
	duo_main(argc, argv);
	return t_main(argc, argv);
}
