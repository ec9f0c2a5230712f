/*
 * test_laws.c - sentences of the design each of which closes a way to lose mail, as stories of a
 * real pair (tests/lib/duo.h).
 *
 * syncfs is this program's own, so that a standby can have a disk that never ends a sync: what
 * it wrote since is then taken away again, as a power cut would. So is pwrite, for a standby whose
 * disk keeps something else of the mailbox id-b's cyrus.header than was written, and fsync, for one
 * whose mailboxes' states do not reach the disk.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/scan.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool disk_hangs, header_lies;
static const char *states_fail; /* the next sync of them, which leaves a file there */

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
fsync(int fd)
{
	static const char log[] = "/journal.db-wal";
	char link[64], path[600];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = states_fail != NULL ? readlink(link, path, sizeof(path)) : -1;
	if (n < (ssize_t)strlen(log) ||
		memcmp(path + n - strlen(log), log, strlen(log)) != 0)
		return (int)syscall(SYS_fsync, fd);
	int tried = open(states_fail, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (tried < 0)
		abort();
	close(tried);
	states_fail = NULL;
	errno = EIO;
	return -1;
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

/* MOVE, as Cyrus does it: the copy is committed, then the original expunged; the cleanup comes
 * when nobody has the mailbox open, and that of the records later still. */
static void
move_without_repack(uint32_t uid)
{
	duo_copy(&d, &B, &A, uid);
	duo_commit(&d, &B);
	duo_expunge(&d, &A, uid);
}

static void
move_to_b(uint32_t uid)
{
	move_without_repack(uid);
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

static uint64_t
last_seq(void)
{
	static struct sync_facts f;

	sync_facts(d.sync, &f);
	return f.position.seq;
}

/* The standby, on a disk with that trouble until it starts anew. */
static void
start_b_with(const char *trouble, const char *value)
{
	setenv(trouble, value, 1);
	duo_start_b(&d);
	unsetenv(trouble);
}

/* The cure that a quarantine names, for B. */
static void
remove_b_there(void)
{
	duo_sh("rm -r %s/box/b", d.root_b);
	duo_start_b(&d);
	uint64_t give_up = clock_ms() + DUO_WAIT_MS;
	while (sync_prove(d.sync, 1000, NULL, NULL, NULL) != 0 && clock_ms() < give_up)
		usleep(20000);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
}

/* The standby, whose replay stops before a file of that folder. */
static void
start_b_slow_in(const char *dir)
{
	char go[320];

	snprintf(go, sizeof(go), "%s.go", d.root_b);
	unlink(go);
	setenv("DUO_GO", go, 1);
	setenv("DUO_SLOW", dir, 1);
	duo_start_b(&d);
	unsetenv("DUO_SLOW");
}

static void
let_b_go_on(void)
{
	duo_sh("touch %s.go", d.root_b);
}

static bool
has_all_rows(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->peers[0].received == f->position.seq;
}

static bool
is_compared(const struct sync_facts *f, void *arg)
{
	return strcmp(f->peers[0].state, "streaming") == 0 && has_all_rows(f, arg);
}

/* ---- design 7: removals never overtake ---- */

TEST(a_message_moved_into_a_mailbox_that_is_set_aside_survives)
{
	uint8_t guid[SHA1_LEN];

	CHECK(duo_two(&d, &A, &B));
	memcpy(guid, A.rec[0].guid, SHA1_LEN);
	duo_stop_b(&d, false);
	standby_writes_in_b(3);
	duo_start_b(&d);
	move_to_b(1);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, true);
	CHECK_EQ(duo_standby(&d).asides, 1);
	CHECK(!duo_exists(d.root_b, "box/a/1."));
	CHECK(duo_has(d.root_b, guid));
	/* nor does another life of the standby forget it */
	duo_start_b(&d);
	rig_flag(&A, 2, 1);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	CHECK_EQ(duo_standby(&d).asides, 1);
	CHECK(duo_has(d.root_b, guid));
	/* the cure that the quarantine names */
	CHECK(strstr(duo_standby(&d).text, "remove the mailbox") != NULL);
	remove_b_there();
	CHECK(duo_exists(d.root_b, "box/b/1."));
	duo_close(&d);
}

/* The same while rows of B are skipped because it is being compared. Now and then the comparison is
 * through before the removal is replayed, and then there is nothing to keep: so a few times. */
TEST(a_message_moved_into_a_mailbox_under_repair_survives)
{
	char path[100], hex[2 * SHA1_LEN + 1];
	bool kept = false;

	CHECK(duo_two(&d, &A, &B));
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
		kept = duo_exists(d.root_b, path);
	}
	CHECK(kept);
	duo_stop_equal(&d);
	duo_close(&d);
}

/* Its destination takes its time: until then the message is where it was. */
TEST(a_message_leaves_no_mailbox_before_it_is_in_the_other)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	start_b_slow_in("box/b");
	move_to_b(1);
	CHECK(duo_until(&d, has_all_rows, NULL));
	usleep(300000);
	CHECK(duo_exists(d.root_b, "box/a/1."));
	let_b_go_on();
	CHECK(duo_settled(&d));
	CHECK(!duo_exists(d.root_b, "box/a/1."));
	duo_stop_equal(&d);
	duo_close(&d);
}

/* Of a comparison the rows come in any order: what they take away before all is done is kept. */
TEST(a_comparison_takes_no_message_away_before_it_is_in_the_other_mailbox)
{
	char path[100], hex[2 * SHA1_LEN + 1];

	CHECK(duo_two(&d, &A, &B));
	hash_hex(A.rec[0].guid, SHA1_LEN, hex);
	snprintf(path, sizeof(path), ".twinspool/kept/%s", hex);
	duo_stop_b(&d, false);
	duo_stop_a(&d, true);
	d.journal_size = 20000;
	duo_start_a(&d);
	move_without_repack(1);
	for (int i = 0; i < 200; i++) {
		rig_flag(&A, 2, 1u << (i % 4));
		duo_commit(&d, &A);
	}
	CHECK(duo_until(&d, duo_says_behind, NULL));
	start_b_slow_in("box/b");
	CHECK(duo_until(&d, is_compared, NULL));
	usleep(300000);
	CHECK(duo_exists(d.root_b, "box/a/1.") || duo_exists(d.root_b, path));
	let_b_go_on();
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	duo_close(&d);
}

/* ---- design 4: batches that touch either path of a rename keep their order ---- */

TEST(a_rename_waits_and_is_waited_for)
{
	static struct rig C;

	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	duo_stop_a(&d, true);
	d.piece = 2;
	duo_start_a(&d);
	start_b_slow_in("box/a");
	rig_append(&A, 300);
	duo_commit(&d, &A);
	/* as Cyrus renames in the layout by name; stated in pieces */
	rig_init(&C, d.spool, "box/c", "id-a", 17);
	rig_create(&C);
	for (uint32_t uid = 1; uid <= 3; uid++)
		rig_copy(&C, &A, uid);
	rig_commit(&C);
	duo_tell(d.sync, &C);
	rig_append(&B, 300);
	duo_commit(&d, &B);
	CHECK(duo_until(&d, has_all_rows, NULL));
	usleep(300000);
	CHECK(!duo_exists(d.root_b, "box/c"));
	CHECK(!duo_exists(d.root_b, "box/b/1."));
	let_b_go_on();
	CHECK(duo_settled(&d));
	CHECK(duo_exists(d.root_b, "box/c/cyrus.index"));
	duo_stop_equal(&d);
	rig_fini(&C);
	duo_close(&d);
}

/* ---- design 1 f: trouble in one mailbox stops that mailbox alone ---- */

TEST(a_mailbox_that_no_repair_helps_is_set_aside_at_last)
{
	CHECK(duo_two(&d, &A, &B));
	rig_append(&B, 200);
	duo_commit(&d, &B);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	start_b_with("LAWS_HEADER_LIES", "1");
	uint64_t before = last_seq();
	rig_keyword(&B, 1, "odd");
	duo_commit(&d, &B);
	CHECK(duo_until(&d, duo_says_aside, NULL));
	/* each repair is a row: it was tried some times, and then no more */
	uint64_t tried = last_seq();
	CHECK(tried > before + 5 && tried < before + 50);
	rig_append(&A, 200);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	usleep(300000);
	CHECK_EQ(last_seq(), tried + 1);
	duo_stop_b(&d, false);
	struct duo_standby h = duo_standby(&d);
	CHECK_EQ(h.asides, 1);
	CHECK_STR(h.check, "read-back");
	CHECK(strstr(h.text, "remove") != NULL);
	/* the disk is well again, and the cure that is named helps */
	remove_b_there();
	duo_close(&d);
}

/* ---- design 7: what a crash leaves in staging ---- */

/* Where a body would be put when it has come whole: what lies there after a crash may be torn. */
TEST(a_torn_body_in_staging_is_not_believed)
{
	char hex[2 * SHA1_LEN + 1];

	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, true);
	uint32_t uid = rig_append(&A, 500);
	hash_hex(A.rec[uid - 1].guid, SHA1_LEN, hex);
	duo_sh("head -c $(stat -c %%s %s/box/a/%u.) /dev/zero >%s/.twinspool/staging/"
	       "%s",
		d.root_a, uid, d.root_b, hex);
	duo_commit(&d, &A);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	duo_close(&d);
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

	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	uint64_t synced = duo_standby(&d).applied.seq;
	duo_sh("cp -a %s %s.synced", d.root_b, d.root_b);
	start_b_with("LAWS_DISK_HANGS", "1");
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
	CHECK_EQ(duo_standby(&d).applied.seq, synced);
	CHECK(duo_standby(&d).pending > 0);
	/* the power comes back: nothing written since the last sync of the spool is there */
	duo_sh("rm -r %s && mv %s.synced %s", d.root_b, d.root_b, d.root_b);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	duo_stop_equal(&d);
	duo_close(&d);
}

/* And where all of it had reached the disk after all: done again over itself. */
TEST(what_was_applied_and_not_recorded_is_done_over_itself)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	start_b_with("LAWS_DISK_HANGS", "1");
	for (int i = 0; i < 3; i++) {
		rig_append(&A, 700);
		duo_commit(&d, &A);
	}
	move_to_b(1);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, is_visible_not_flushed, NULL));
	duo_stop_b(&d, true);
	CHECK(duo_standby(&d).pending > 0);
	uint64_t last = last_seq();
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	/* in order and for what it is: nothing had to be stated anew */
	CHECK_EQ(last_seq(), last);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_close(&d);
}

struct tried {
	const char *file;
	uint64_t flushed;
};

static bool
tried_or_recorded(const struct sync_facts *f, void *arg)
{
	const struct tried *t = arg;

	return f->peers[0].flushed > t->flushed || access(t->file, F_OK) == 0;
}

/* The rows that made a mailbox are never done again once they are recorded as applied, so what is
 * known of it goes first: or after a power cut nobody knew that it is there. */
TEST(nothing_is_recorded_as_applied_before_the_states_are_on_disk)
{
	static struct sync_facts f;
	char file[320];

	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	snprintf(file, sizeof(file), "%s.tried", d.root_b);
	struct tried t = { file, duo_standby(&d).applied.seq };
	start_b_with("LAWS_STATES_FAIL", file);
	rig_append(&A, 700);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, tried_or_recorded, &t));
	/* Time enough for another attempt, which would be good, and know nothing of what is lost. */
	usleep(700000);
	sync_facts(d.sync, &f);
	CHECK_EQ(f.peers[0].flushed, t.flushed);
	CHECK(f.journal_first <= t.flushed + 1);
	duo_stop_b(&d, false);
	CHECK_EQ(duo_standby(&d).applied.seq, t.flushed);
	CHECK(duo_standby(&d).pending > 0);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	duo_close(&d);
}

/* ---- design 4: kept bodies and the journal's limits ---- */

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
	return duo_kept(d.root_a) == 0;
}

/* Appended to, and renamed by name: the messages are linked from the old folder. */
TEST(a_mailbox_too_large_for_one_batch_travels_in_pieces)
{
	static struct sync_facts f;
	static struct rig c;

	CHECK(duo_two(&d, &A, &B));
	duo_stop_a(&d, true);
	d.piece = 4;
	duo_start_a(&d);
	for (int i = 0; i < 9; i++)
		rig_append(&A, 500);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	sync_facts(d.sync, &f);
	uint64_t rows = f.position.seq;
	duo_sh("cd %s/box && cp -al a c && cd c && for f in cyrus.*; do "
	       "cp -a $f x && mv x $f; done",
		d.root_a);
	c = A;
	snprintf(c.dir, sizeof(c.dir), "box/c");
	d.rigs[d.n_rigs++] = &c;
	duo_tell(d.sync, &c);
	CHECK(duo_settled(&d));
	sync_facts(d.sync, &f);
	CHECK_EQ(f.position.seq, rows + 3);
	rig_flag(&c, 1, INDEX_FLAG_SEEN);
	duo_commit(&d, &c);
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_sh("cd %s/box && test a/7. -ef c/7.", d.root_b);
	duo_close(&d);
}

TEST(kept_bodies_go_when_the_peer_has_confirmed)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	rig_append(&A, 3000);
	duo_commit(&d, &A);
	delete_all_of_a();
	CHECK(duo_kept(d.root_a) > 0);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	/* What was kept while other things were queued counts them all as rows, and so may wait
	 * for the next one. */
	rig_append(&A, 300);
	duo_commit(&d, &A);
	CHECK(duo_until(&d, none_kept, NULL));
	duo_stop_equal(&d);
	duo_close(&d);
}

TEST(nothing_is_kept_for_a_peer_that_is_configured_no_more)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	rig_append(&A, 3000);
	duo_commit(&d, &A);
	delete_all_of_a();
	duo_stop_a(&d, true);
	CHECK(duo_kept(d.root_a) > 0);
	d.peer_name = "c";
	duo_start_a(&d);
	CHECK(duo_until(&d, none_kept, NULL));
	duo_close(&d);
}

TEST(kept_bodies_go_when_the_peer_falls_behind)
{
	CHECK(duo_two(&d, &A, &B));
	CHECK(duo_settled(&d));
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	d.journal_size = 20000;
	duo_start_b(&d);
	duo_start_a(&d);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	rig_append(&A, 3000);
	duo_commit(&d, &A);
	delete_all_of_a();
	CHECK(duo_kept(d.root_a) > 0);
	for (int i = 0; i < 200; i++) {
		rig_append(&B, 100);
		duo_commit(&d, &B);
	}
	CHECK(duo_until(&d, duo_says_behind, NULL));
	CHECK(duo_until(&d, none_kept, NULL));
	/* nor does the journal itself grow for it */
	static struct sync_facts f;
	usleep(300000);
	sync_facts(d.sync, &f);
	CHECK(f.journal_bytes <= 2 * d.journal_size);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	duo_close(&d);
}

/* ---- design 7: mailboxes in parallel ---- */

static bool
b_has_all(const struct sync_facts *f, void *arg)
{
	(void)f, (void)arg;
	return duo_exists(d.root_b, "box/b/20.");
}

TEST(a_slow_mailbox_holds_up_no_other)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	start_b_slow_in("box/a");
	for (int i = 0; i < 20; i++) {
		rig_append(&A, 300);
		duo_commit(&d, &A);
		rig_append(&B, 300);
		duo_commit(&d, &B);
	}
	CHECK(duo_until(&d, b_has_all, NULL));
	CHECK(!duo_exists(d.root_b, "box/a/23."));
	/* and what is behind is in order, once it goes on */
	let_b_go_on();
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	duo_close(&d);
}

static _Atomic int bodies_gone;

static void
on_log_gone(enum log_level level, const char *line)
{
	duo_log(level, line);
	bodies_gone += strstr(line, "a body is gone with its message") != NULL;
}

/* Decision 0007: the message went, and its body with it, before its row was sent. */
TEST(a_body_that_went_with_its_message_is_not_missed)
{
	CHECK(duo_two(&d, &A, &B));
	log_set_hook(on_log_gone);
	bodies_gone = 0;
	duo_stop_b(&d, false);
	uint32_t uid = rig_append(&A, 300);
	duo_commit(&d, &A);
	rig_append(&A, 300);
	duo_commit(&d, &A);
	rig_expunge(&A, uid);
	duo_commit(&d, &A);
	rig_unlink(&A, uid);
	duo_commit(&d, &A);
	duo_sh("rm %s/box/a/%u.", d.root_a, uid);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	CHECK(bodies_gone > 0);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	CHECK(duo_exists(d.root_b, "box/a/5.") && !duo_exists(d.root_b, "box/a/4."));
	duo_close(&d);
}

/* ---- what counts as received ---- */

static _Atomic bool confirmed;

static void
on_confirmed(void *arg, int code)
{
	(void)arg;
	confirmed = code == 0;
}

static bool
is_confirmed(const struct sync_facts *f, void *arg)
{
	(void)f, (void)arg;
	return confirmed;
}

static bool
b_stored_more(const struct sync_facts *f, void *arg)
{
	return f->peers[0].received > *(const uint64_t *)arg;
}

static bool
b_has_said_hello(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return strcmp(f->peers[0].state, "streaming") == 0;
}

/* Both with one message; what box/b gets is confirmed at that level, and not replayed until `go`. */
static void
level_with_b_held(enum sync_level level, const char *broken, char go[320])
{
	CHECK(duo_two(&d, &A, &B));
	snprintf(go, 320, "%s.go", d.root_b);
	duo_stop_a(&d, true);
	duo_stop_b(&d, false);
	if (broken != NULL)
		duo_sh("rm %s/%s", d.root_b, broken);
	setenv("DUO_GO", go, 1);
	setenv("DUO_SLOW", "box/b", 1);
	duo_start_b(&d);
	unsetenv("DUO_SLOW");
	d.level = level;
	duo_start_a(&d);
	CHECK(duo_settled(&d));
	confirmed = false;
}

/* Capture saw the link: what is called so in g is message 1 of A, it says. */
static void
linked_from_a(struct rig *g, uint32_t uid)
{
	char name[SCAN_BODY_NAME];
	struct stat st;

	if (spool_stat(d.spool, g->dir, scan_body_name(uid, name), &st) != 0)
		abort();
	sync_linked(d.sync, st.st_ino, A.dir, 1);
}

static void
link_is_whole_with_its_body(enum sync_level level)
{
	char go[320];

	level_with_b_held(level, "box/a/1.", go);
	uint64_t before = last_seq();
	linked_from_a(&B, rig_copy(&B, &A, 1));
	duo_commit(&d, &B);
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_confirmed, NULL));
	CHECK(duo_until(&d, b_stored_more, &before));
	CHECK(!confirmed);
	duo_sh("touch %s", go);
	CHECK(duo_until(&d, is_confirmed, NULL));
	CHECK(duo_exists(d.root_b, "box/b/1."));
	duo_close(&d);
}

TEST(a_link_to_what_the_peer_lacks_is_not_received_before_its_body)
{
	link_is_whole_with_its_body(SYNC_RECEIVED);
}

TEST(nor_is_it_flushed)
{
	link_is_whole_with_its_body(SYNC_FLUSHED);
}

/* A file system gives the number of an inode that went to the next one at once. */
TEST(what_was_known_of_an_inode_is_not_said_of_the_next_with_its_number)
{
	char go[320];

	level_with_b_held(SYNC_FLUSHED, NULL, go);
	linked_from_a(&B, rig_append(&B, 700));
	duo_sh("ln %s/box/b/1. %s/staged", d.root_a, d.root_a);
	duo_commit(&d, &B);
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_confirmed, NULL));
	/* before its replay is through: so the body came along */
	CHECK(duo_until(&d, is_confirmed, NULL));
	duo_sh("touch %s", go);
	CHECK(duo_settled(&d));
	duo_sh("rm %s/staged", d.root_a);
	duo_stop_equal(&d);
	duo_close(&d);
}

/* A server is killed while an answer waits for the peer; the next one carries that request out again, and
 * nothing else happens: it waits for what the last one journaled, and is answered once that is there. */
TEST(an_answer_waits_in_the_next_life_for_what_the_last_one_journaled)
{
	char go[320];

	level_with_b_held(SYNC_APPLIED, NULL, go);
	uint64_t before = last_seq();
	rig_append(&B, 700);
	duo_commit(&d, &B);
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_confirmed, NULL));
	CHECK(duo_until(&d, b_stored_more, &before));
	uint64_t last = last_seq();
	duo_stop_a(&d, false);
	CHECK(!confirmed);
	d.takeover = true;
	duo_start_a(&d);
	CHECK(sync_confirm(d.sync, SYNC_ALL_KINDS, on_confirmed, NULL));
	CHECK(duo_until(&d, b_has_said_hello, NULL));
	usleep(100000);
	CHECK(!confirmed);
	duo_sh("touch %s", go);
	CHECK(duo_until(&d, is_confirmed, NULL));
	CHECK_EQ(last_seq(), last);
	duo_stop_equal(&d);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	disk_hangs = getenv("LAWS_DISK_HANGS") != NULL;
	header_lies = getenv("LAWS_HEADER_LIES") != NULL;
	states_fail = getenv("LAWS_STATES_FAIL");
	duo_main(argc, argv);
	return t_main(argc, argv);
}
