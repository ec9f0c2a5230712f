/*
 * test_pending.c - what capture notes of a mailbox's transaction, over the table of known files and
 * an active node whose peer is away. What the kernel would send is called by hand.
 *
 * readlink is this program's own: while `paths_fail` is set, no folder's path can be found.
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
static _Atomic bool paths_fail;

ssize_t
readlink(const char *path, char *buf, size_t size)
{
	if (paths_fail) {
		errno = EMFILE;
		return -1;
	}
	return syscall(SYS_readlinkat, AT_FDCWD, path, buf, size);
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

static void
set_up(void)
{
	size_t size = inode_shared_size(1000);
	struct inode_shared *sh = mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int pair[2];

	log_set_hook(duo_log);
	duo_open(&d);
	duo_start_a(&d);
	duo_create(&d, &A, "box/a", "id-a");
	inode_shared_init(sh, 1000);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
		abort();
	su.pin_fd = pair[0];
	if (inode_start(sh, &su, open(d.root_a, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		    100) != 0 ||
		capture_start(d.sync, d.root_a) != 0)
		abort();
	struct inode *top = enter(inode_get(INODE_ROOT), "box", "box");
	box = enter(top, "box/a", "a");
	enter(box, "box/a/cyrus.index", "cyrus.index");
}

static int
open_index(void)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/box/a/cyrus.index", d.root_a);
	return open(path, O_RDWR | O_CLOEXEC);
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
a_commit_waits_for_its_path(void)
{
	unsigned kinds;
	int fd = open_index();

	CHECK(fd >= 0);
	uint64_t before = 0;
	CHECK(duo_until(&d, journal_grew, &before));
	before = last_seq();
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
	set_up();
	a_commit_waits_for_its_path();
	a_note_waits_for_its_path();
	many_records_take_no_square_of_time();
	capture_stop();
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
