/*
 * test_pending.c - what capture notes of a mailbox's transaction, over the table of known files and
 * an active node whose peer is away. What the kernel would send is called by hand.
 *
 * Some functions of libc are this program's own. readlink and fstatat: while `paths_fail` is set, no
 * folder's path can be found; `meanwhile` is called when one is. fsync: while `syncs_fail` is set, the disk does
 * not keep the index.
 */
#include "fs/capture.h"
#include "fs/inode.h"
#include "fs/pending.h"
#include "fs/slot.h"
#include "fs/super.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 40000 };

static struct duo d;
static struct rig A;
static struct super su;
static struct inode *box; /* box/a */
static _Atomic bool paths_fail, syncs_fail;
static void (*meanwhile)(void);
static ino_t index_ino;
static _Atomic unsigned failed_syncs;

/* Somebody looks where a folder lies; false if he may not find it. */
static bool
looked_for(void)
{
	void (*fn)(void) = meanwhile;

	if (paths_fail) {
		errno = EMFILE;
		return false;
	}
	if (fn != NULL) {
		meanwhile = NULL;
		fn();
	}
	return true;
}

ssize_t
readlink(const char *path, char *buf, size_t size)
{
	if (!looked_for())
		return -1;
	return syscall(SYS_readlinkat, AT_FDCWD, path, buf, size);
}

/* Does a path that was found before still lead there? */
int
fstatat(int at, const char *path, struct stat *st, int flags)
{
	if (strcmp(path, "box/a") == 0 && !looked_for())
		return -1;
	return (int)syscall(SYS_newfstatat, at, path, st, flags);
}

int
fsync(int fd)
{
	struct stat st;

	if (syncs_fail && fstat(fd, &st) == 0 && st.st_ino == index_ino) {
		failed_syncs++;
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static struct inode *
enter(struct inode *parent, const char *path, const char *name)
{
	char full[600];
	struct slot_handle h;
	struct inode *ino;
	struct stat st;

	snprintf(full, sizeof(full), "%s/%s", d.root_a, path);
	int fd = open(full, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0 || inode_handle_at(fd, "", &h) != 0 ||
		inode_enter(NULL, parent, name, &h, &st, &ino) != 0)
		abort();
	close(fd);
	inode_hold(ino);
	return ino;
}

static bool
journal_grew(const struct sync_facts *f, void *arg)
{
	return f->position.seq > *(const uint64_t *)arg;
}

static uint64_t
last_seq(void)
{
	static struct sync_facts f;

	sync_facts(d.sync, &f);
	return f.position.seq;
}

static void
set_up(enum sync_level level)
{
	size_t size = inode_shared_size(1000);
	struct inode_shared *sh = mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct stat index_stat;
	int pair[2];

	log_set_hook(duo_log);
	duo_open(&d);
	d.level = level;
	duo_start_a(&d);
	duo_create(&d, &A, "box/a", "id-a");
	if (spool_stat(d.spool, "box/a", "cyrus.index", &index_stat) != 0)
		abort();
	inode_shared_init(sh, 1000);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
		abort();
	su.pin_fd = pair[0];
	if (inode_start(sh, &su, open(d.root_a, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		    100) != 0 ||
		capture_start(d.sync, d.root_a) != 0)
		abort();
	inode_claims_settled();
	struct inode *top = enter(inode_get(INODE_ROOT), "box", "box");
	box = enter(top, "box/a", "a");
	enter(box, "box/a/cyrus.index", "cyrus.index");
	index_ino = index_stat.st_ino;
	/* the folder and the mailbox */
	uint64_t rows = 1;
	if (!duo_until(&d, journal_grew, &rows))
		abort();
}

static int
open_index(void)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/box/a/cyrus.index", d.root_a);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void
a_commit_waits_for_its_path(void)
{
	unsigned kinds;
	int fd = open_index();

	CHECK(fd >= 0);
	uint64_t before = last_seq();
	pending_index_write(box, fd, 0, A.h.start_offset);
	rig_append(&A, 300);
	rig_commit(&A);
	paths_fail = true;
	CHECK_EQ(pending_commit(box, &kinds), EMFILE);
	paths_fail = false;
	/* it is not forgotten */
	CHECK(duo_until(&d, journal_grew, &before));
	close(fd);
}

static void
a_note_waits_for_its_path(void)
{
	struct cap_name op = { .op = CAP_CREATE, .parent = box, .name = "notes.txt" };

	paths_fail = true;
	CHECK_EQ(capture_name_begin(&op), EMFILE);
	paths_fail = false;
	CHECK_EQ(capture_name_begin(&op), 0);
	capture_name_end(&op, ENOSPC);
}

static void
many_records_take_no_square_of_time(void)
{
	struct timespec from, to;
	int fd = open_index();
	size_t size = A.h.record_size;

	CHECK(fd >= 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	/* twice: the second time all of them are known */
	for (unsigned twice = 0; twice < 2; twice++)
		pending_index_write(
			box, fd, (off_t)A.h.start_offset, (size_t)MANY * size);
	/* as fallocate may say it */
	pending_index_write(
		box, fd, (off_t)A.h.start_offset, SIZE_MAX / 2 / size * size);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	double took = (double)(to.tv_sec - from.tv_sec) +
		      (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	fprintf(stderr, "# %d records: %.3f s\n", MANY, took);
	CHECK(took < 0.3);
	close(fd);
}

TEST(a_transaction_is_noted)
{
	set_up(SYNC_LOCAL);
	a_commit_waits_for_its_path();
	a_note_waits_for_its_path();
	many_records_take_no_square_of_time();
	capture_stop();
	duo_close(&d);
}

/* ---- design 4: into the journal only after the sync of its index succeeded ---- */

static bool
failed_twice_or_grew(const struct sync_facts *f, void *arg)
{
	return failed_syncs >= 2 || journal_grew(f, arg);
}

/* The disk does not keep the index: it is tried again and again, and nothing is journaled. */
static void
waits_for_its_sync(uint64_t before)
{
	CHECK(duo_until(&d, failed_twice_or_grew, &before));
	CHECK_EQ(last_seq(), before);
	syncs_fail = false;
	CHECK(duo_until(&d, journal_grew, &before));
	CHECK(failed_syncs >= 2);
	failed_syncs = 0;
}

TEST(an_aborted_transaction_is_synced_before_it_is_journaled)
{
	set_up(SYNC_LOCAL);
	int fd = open_index();
	CHECK(fd >= 0);
	syncs_fail = true;
	pending_index_write(box, fd, (off_t)A.h.start_offset, A.h.record_size);
	rig_append(&A, 300);
	rig_commit(&A);
	waits_for_its_sync(last_seq());
	close(fd);
	capture_stop();
	duo_close(&d);
}

/* ---- design 4: no header for 200 ms, and no lock ---- */

TEST(a_long_transaction_is_not_taken_for_an_aborted_one)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	set_up(SYNC_LOCAL);
	int fd = open_index();
	CHECK(fd >= 0);
	uint64_t before = last_seq();
	/* Of the open file: nobody who opens and closes it here gives that up. */
	CHECK_EQ(fcntl(fd, F_OFD_SETLK, &whole), 0);
	pending_index_write(box, fd, (off_t)A.h.start_offset, A.h.record_size);
	rig_append(&A, 300);
	rig_commit(&A);
	usleep(5 * PENDING_ABORT_MS * 1000);
	CHECK_EQ(last_seq(), before);
	whole.l_type = F_UNLCK;
	CHECK_EQ(fcntl(fd, F_OFD_SETLK, &whole), 0);
	CHECK(duo_until(&d, journal_grew, &before));
	close(fd);
	capture_stop();
	duo_close(&d);
}

/* What a server that died has left: marks in the shared memory, and nobody knows what was synced. */
static void
taken_over(uint32_t marks)
{
	capture_stop();
	syncs_fail = true;
	inode_mark(box, marks);
	rig_append(&A, 300);
	rig_commit(&A);
	uint64_t before = last_seq();
	CHECK_EQ(capture_start(d.sync, d.root_a), 0);
	waits_for_its_sync(before);
}

TEST(what_a_dead_server_left_is_synced_before_it_is_journaled)
{
	set_up(SYNC_LOCAL);
	taken_over(PENDING_MARK_TOUCHED);
	taken_over(PENDING_MARK_TOUCHED | PENDING_MARK_COMMITTED);
	capture_stop();
	duo_close(&d);
}

/* ---- a commit that is answered is one that is waited for ---- */

static _Atomic uint64_t confirmed_at; /* the journal's end when the client got its OK */

static void
on_confirmed(void *arg, int code)
{
	(void)arg;
	confirmed_at = code == 0 ? last_seq() : 0;
}

static bool
is_confirmed(const struct sync_facts *f, void *arg)
{
	(void)f, (void)arg;
	return confirmed_at != 0;
}

static void
chmod_of_the_index(void)
{
	pending_unsure(box);
}

/* Somebody sets the mode of the index while the commit is read: it may be half of something, and is
 * read again; and only then the writer's sync is over, for its client is told that a peer has it. */
TEST(a_commit_that_was_disturbed_is_handed_on_before_its_sync_is_answered)
{
	unsigned kinds;

	set_up(SYNC_RECEIVED);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	int fd = open_index();
	CHECK(fd >= 0);
	uint64_t before = last_seq();
	pending_index_write(box, fd, 0, A.h.start_offset);
	rig_append(&A, 300);
	rig_commit(&A);
	meanwhile = chmod_of_the_index;
	CHECK_EQ(pending_commit(box, &kinds), 0);
	CHECK(sync_confirm(d.sync, kinds, on_confirmed, NULL));
	CHECK(duo_until(&d, is_confirmed, NULL));
	CHECK(confirmed_at > before);
	CHECK(meanwhile == NULL);
	close(fd);
	capture_stop();
	duo_close(&d);
}

/* Its counters are wrong, as Cyrus leaves them when it is killed between a record and the header. */
static void
miscount(int fd)
{
	uint8_t raw[INDEX_MAX_HEADER];
	struct index_header h;

	if (pread(fd, raw, A.h.start_offset, 0) != (ssize_t)A.h.start_offset ||
		index_header_decode(raw, A.h.start_offset, &h) != 0)
		abort();
	h.answered++;
	index_header_encode(&h, raw);
	if (pwrite(fd, raw, A.h.start_offset, 0) != (ssize_t)A.h.start_offset)
		abort();
}

/* What does not add up may be half of a transaction while its writer has the index locked; but not
 * that of the writer whose sync this is. */
TEST(nor_is_one_answered_early_for_the_lock_of_its_own_writer)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	unsigned kinds;

	set_up(SYNC_RECEIVED);
	duo_start_b(&d);
	CHECK(duo_settled(&d));
	int fd = open_index();
	CHECK(fd >= 0);
	/* of the descriptor: others of this process are closed meanwhile */
	CHECK_EQ(fcntl(fd, F_OFD_SETLK, &lock), 0);
	uint64_t before = last_seq();
	pending_unsure(box);
	pending_index_write(box, fd, 0, A.h.start_offset);
	rig_append(&A, 300);
	rig_commit(&A);
	miscount(fd);
	confirmed_at = 0;
	CHECK_EQ(pending_commit(box, &kinds), 0);
	CHECK(sync_confirm(d.sync, kinds, on_confirmed, NULL));
	CHECK(duo_until(&d, is_confirmed, NULL));
	CHECK(confirmed_at > before);
	close(fd);
	capture_stop();
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
