/*
 * test_redo.c - what a standby did and had not recorded when it died is done again, in order, before
 * anything that is new trusts what is there (design 7).
 *
 * syncfs is this program's own: while the file that REDO_HANGS names exists, the standby's disk never
 * ends a sync, so nothing is recorded. If there is one that REDO_FAILS names, one sync fails.
 */
#include "meta/scan.h"
#include "meta/spool.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *hangs, *fails;

int
syncfs(int fd)
{
	if (fails != NULL && unlink(fails) == 0) {
		errno = EIO;
		return -1;
	}
	while (hangs != NULL && access(hangs, F_OK) == 0)
		usleep(5000);
	return (int)syscall(SYS_syncfs, fd);
}

static struct duo d;
static struct rig A, B;
static char hang[320], go[320], fail[320];

/* Both with two mailboxes, on which all is recorded; the standby's disk can hang from here on. */
static void
begin(void)
{
	CHECK(duo_two(&d, &A, &B));
	duo_stop_b(&d, false);
	snprintf(hang, sizeof(hang), "%s.hang", d.root_b);
	snprintf(go, sizeof(go), "%s.go", d.root_b);
	snprintf(fail, sizeof(fail), "%s.fail", d.root_b);
	setenv("REDO_HANGS", hang, 1);
	setenv("REDO_FAILS", fail, 1);
	duo_start_b(&d);
	unsetenv("REDO_HANGS");
	unsetenv("REDO_FAILS");
	CHECK(duo_settled(&d));
}

static uint64_t
last_seq(void)
{
	static struct sync_facts f;

	sync_facts(d.sync, &f);
	return f.position.seq;
}

static bool
is_received(const struct sync_facts *f, void *arg)
{
	return f->peers[0].received == f->position.seq &&
	       f->position.seq >= *(const uint64_t *)arg;
}

/* All rows up to this one at least are there, and whatever may go on has some time to. */
static void
arrived(uint64_t seq)
{
	CHECK(duo_until(&d, is_received, &seq));
	usleep(150000);
}

static bool
is_recorded(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->peers[0].flushed == f->position.seq;
}

/* Everything equal, and by the rows alone: nothing had to be stated anew. */
static void
equal_by_rows(uint64_t seq)
{
	CHECK(duo_settled(&d));
	CHECK_EQ(last_seq(), seq);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	CHECK_EQ(duo_standby(&d).pending, 0);
	duo_close(&d);
}

static void
tear(const char *name)
{
	char path[600], zeros[4096] = { 0 };
	struct stat st;

	snprintf(path, sizeof(path), "%s/box/a/%s", d.root_b, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0 || (size_t)st.st_size > sizeof(zeros) ||
		write(fd, zeros, (size_t)st.st_size) != st.st_size)
		abort();
	close(fd);
}

/* A power cut tore a body that was replayed and not yet synced. The row that brought it is done again;
 * a copy that comes meanwhile may not be linked to what is torn. */
TEST(what_comes_new_does_not_trust_what_a_crash_left)
{
	char name[SCAN_BODY_NAME];
	struct stat st;

	begin();
	duo_sh("touch %s", hang);
	uint32_t uid = rig_append(&A, 700);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, true);
	CHECK(duo_standby(&d).pending > 0);
	tear(scan_body_name(uid, name));
	duo_sh("rm %s", hang);
	setenv("DUO_SLOW", "box/a", 1);
	setenv("DUO_GO", go, 1);
	duo_start_b(&d);
	unsetenv("DUO_SLOW");
	uint32_t copy = rig_copy(&B, &A, uid);
	CHECK_EQ(spool_stat(d.spool, B.dir, scan_body_name(copy, name), &st), 0);
	sync_linked(d.sync, st.st_ino, A.dir, uid);
	uint64_t seq = last_seq() + 1;
	duo_commit(&d, &B);
	arrived(seq);
	CHECK(!duo_exists(d.root_b, "box/b/1."));
	duo_sh("touch %s", go);
	equal_by_rows(seq);
}

/* The files as a crash left them are not what the rows were made for: the sum behind the last one that
 * is done again says so, and the mailbox is compared. */
TEST(what_was_done_again_is_proven_by_its_sum)
{
	struct spool *sp;

	begin();
	duo_sh("touch %s", hang);
	for (int i = 0; i < 3; i++) {
		rig_append(&A, 300);
		duo_commit(&d, &A);
	}
	CHECK(duo_settled(&d));
	duo_stop_b(&d, true);
	CHECK(duo_standby(&d).pending > 0);
	CHECK_EQ(spool_open(d.root_b, &sp), 0);
	struct rig other = A;
	other.sp = sp;
	other.old_index = NULL;
	other.rec[0].flags ^= INDEX_FLAG_FLAGGED;
	rig_commit(&other);
	spool_close(sp);
	duo_sh("rm %s", hang);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_close(&d);
}

static void
move_a(const char *to)
{
	struct sync_moving *m;

	CHECK_EQ(sync_note(d.sync, A.dir, 0), 0);
	CHECK_EQ(sync_note(d.sync, to, 0), 0);
	CHECK_EQ(sync_move_begin(d.sync, sync_names(d.sync), A.dir, to, &m), 0);
	CHECK_EQ(spool_move(d.spool, A.dir, to), 0);
	sync_move_end(d.sync, m, SYNC_MOVED);
	snprintf(A.dir, sizeof(A.dir), "%s", to);
}

/* A row that was replayed and is not recorded comes again under the name that it gives. */
TEST(a_folder_is_not_moved_before_what_was_done_in_it_is_recorded)
{
	begin();
	duo_sh("touch %s", hang);
	rig_append(&A, 700);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	uint64_t seq = last_seq() + 1;
	move_a("box/c");
	arrived(seq);
	CHECK(duo_exists(d.root_b, "box/a/cyrus.index"));
	CHECK(!duo_exists(d.root_b, "box/c"));
	duo_stop_b(&d, true);
	duo_sh("rm %s", hang);
	duo_start_b(&d);
	equal_by_rows(seq);
}

static bool
is_moved(const struct sync_facts *f, void *arg)
{
	(void)f, (void)arg;
	return duo_exists(d.root_b, "box/c/cyrus.index");
}

/* And the move itself comes again: what is called by the old name now must not be moved by it. */
TEST(nothing_goes_on_behind_a_move_before_that_is_recorded)
{
	static struct rig C;

	begin();
	CHECK(duo_until(&d, is_recorded, NULL));
	duo_sh("touch %s", hang);
	uint64_t seq = last_seq();
	move_a("box/c");
	CHECK(duo_until(&d, is_moved, NULL));
	duo_create(&d, &C, "box/a", "id-c");
	rig_append(&C, 300);
	duo_commit(&d, &C);
	arrived(seq + 3);
	CHECK(!duo_exists(d.root_b, "box/a"));
	seq = last_seq();
	duo_stop_b(&d, true);
	duo_sh("rm %s", hang);
	duo_start_b(&d);
	equal_by_rows(seq);
}

static bool
has_failed(const struct sync_facts *f, void *arg)
{
	(void)f, (void)arg;
	return access(fail, F_OK) != 0;
}

/* The kernel tells of a write that failed once; the syncs after it are good, and know nothing of what
 * that was. So what was replayed until then is recorded by no sync of this life, nor by its stop. */
TEST(what_a_disk_did_not_keep_is_never_recorded)
{
	begin();
	CHECK(duo_until(&d, is_recorded, NULL));
	uint64_t before = last_seq();
	duo_sh("touch %s", fail);
	rig_append(&A, 700);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK(duo_until(&d, has_failed, NULL));
	rig_append(&B, 300);
	duo_commit(&d, &B);
	CHECK(duo_settled(&d));
	/* Time enough for another attempt. */
	usleep(700000);
	duo_stop_b(&d, false);
	CHECK_EQ(duo_standby(&d).applied.seq, before);
	CHECK_EQ(duo_standby(&d).pending, 2);
	duo_start_b(&d);
	equal_by_rows(before + 2);
}

int
main(int argc, char **argv)
{
	hangs = getenv("REDO_HANGS");
	fails = getenv("REDO_FAILS");
	duo_main(argc, argv);
	return t_main(argc, argv);
}
