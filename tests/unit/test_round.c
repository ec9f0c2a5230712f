/*
 * test_round.c - syncs that were put off are made before an index names what they are of, by whoever
 * changes that index: this server, or the next one after a death.
 *
 * Each life of a server is a child, over memory that all share. The last test records what it writes
 * and cuts the power (tests/sim/power.h). The thread that pays what nobody commits for a second is
 * never woken, or on a slow machine it might come first.
 */
#include "fs/capture.h"
#include "fs/inode.h"
#include "fs/round.h"
#include "fs/slot.h"
#include "fs/super.h"
#include "meta/base/disk.h"
#include "tests/lib/t.h"
#include "tests/sim/power.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILES = 100, BODY = 4000, CUTS = 20 };
#define MUST(cond) \
	do { \
		if (!(cond)) \
			return __LINE__; \
	} while (0)

static char root[300], log_path[310];
static struct inode_shared *files;
static struct round_shared *debts;
static struct super su;
static struct inode *a, *b, *stage; /* two mailboxes */
static struct inode *a_index, *b_index;

int
pthread_cond_timedwait(
	pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
	(void)until;
	return pthread_cond_wait(cond, lock);
}

static void *
shared(size_t size)
{
	void *p = mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

static int
file(const char *path, int flags)
{
	char full[600];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	int fd = open(full, flags | O_CLOEXEC, 0640);
	if (fd < 0)
		abort();
	return fd;
}

static void
put(const char *path, const char *text)
{
	int fd = file(path, O_WRONLY | O_CREAT);

	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		abort();
	close(fd);
}

static void
world(unsigned n)
{
	static const char *const dirs[] = { "", "/stage.", "/a", "/b" };
	char path[400];
	int pair[2];

	snprintf(root, sizeof(root), "%s/disk%u", t_tmpdir(), n);
	snprintf(log_path, sizeof(log_path), "%s.log", root);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s%s", root, dirs[i]);
		if (mkdir(path, 0750) != 0)
			abort();
	}
	put("a/cyrus.index", "names 0");
	put("b/cyrus.index", "names 0");
	files = shared(inode_shared_size(FILES));
	inode_shared_init(files, FILES);
	debts = shared(round_shared_size());
	disk_count_in(shared(DISK_WHATS * sizeof(_Atomic uint64_t)));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
		abort();
	su.pin_fd = pair[0];
}

static struct inode *
enter(struct inode *parent, const char *path)
{
	struct slot_handle h;
	struct inode *ino;
	struct stat st;
	const char *name = strrchr(path, '/');
	int fd = file(path, O_PATH | O_NOFOLLOW);

	if (fstat(fd, &st) != 0 || inode_handle_at(fd, "", &h) != 0 ||
		inode_enter(NULL, parent, name != NULL ? name + 1 : path, &h, &st,
			&ino) != 0)
		abort();
	close(fd);
	inode_hold(ino);
	return ino;
}

enum disk { WELL, BROKEN };

/* A server from its start to its death; 0, or the line where it went wrong. */
static int
life(int (*fn)(void), bool put_off, enum disk disk)
{
	int status, *line = shared(4096);
	pid_t pid = fork();

	if (pid == 0) {
		int root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (root_fd < 0 || inode_start(files, &su, root_fd, 10) != 0 ||
			round_start(debts, disk == BROKEN ? -1 : root_fd, put_off) != 0)
			abort();
		inode_claims_settled();
		struct inode *top = inode_get(INODE_ROOT);
		stage = enter(top, "stage.");
		a = enter(top, "a");
		b = enter(top, "b");
		a_index = enter(a, "a/cyrus.index");
		b_index = enter(b, "b/cyrus.index");
		*line = fn();
		raise(SIGKILL);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || WTERMSIG(status) != SIGKILL)
		return -1;
	return *line;
}

static uint64_t
syncs(void)
{
	uint64_t n = 0;

	for (int what = 0; what < DISK_WHATS; what++)
		n += disk_counted((enum disk_what)what);
	return n;
}

/* FSYNC of a file, as Cyrus asks for it. */
static int
fsync_of(struct inode *ino, const char *path)
{
	unsigned kinds;
	int fd = file(path, O_RDWR), err = capture_fsync(ino, fd, false, &kinds);

	close(fd);
	return err;
}

/* A WRITE to an index, which says from then on how many messages there are. */
static int
write_index(struct inode *ino, const char *path, const char *text)
{
	int fd = file(path, O_RDWR),
	    err = capture_write_begin(ino, fd, 0, strlen(text));

	if (err == 0 && pwrite(fd, text, strlen(text), 0) != (ssize_t)strlen(text))
		err = errno;
	close(fd);
	return err;
}

static int
delivered(void)
{
	put("a/1.", "body");
	MUST(fsync_of(enter(a, "a/1."), "a/1.") == 0);
	return 0;
}

static int
put_off_and_paid(void)
{
	MUST(delivered() == 0);
	MUST(syncs() == 0);
	/* who owes nothing does not wait */
	MUST(write_index(b_index, "b/cyrus.index", "names 0") == 0 && syncs() == 0);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0 && syncs() == 1);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0 && syncs() == 1);
	/* that of the index itself is never put off */
	MUST(fsync_of(a_index, "a/cyrus.index") == 0 && syncs() == 2);
	return 0;
}

TEST(a_sync_that_was_put_off_is_made_before_the_index_is_changed)
{
	world(0);
	CHECK_EQ(life(put_off_and_paid, true, WELL), 0);
}

/* What is staged belongs to nobody, until a mailbox has a link of it; then that owes its sync, asked
 * for or not. */
static int
staged(void)
{
	put("stage./x", "body");
	struct inode *x = enter(stage, "stage./x");
	MUST(fsync_of(x, "stage./x") == 0);
	MUST(write_index(a_index, "a/cyrus.index", "names 0") == 0 && syncs() == 0);
	struct cap_name op = { .op = CAP_LINK, .parent = a, .name = "1.", .target = x };
	MUST(capture_name_begin(&op) == 0 && syncs() == 0);
	MUST(write_index(b_index, "b/cyrus.index", "names 0") == 0 && syncs() == 0);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0 && syncs() == 1);
	return 0;
}

TEST(a_link_of_what_is_staged_owes_its_sync)
{
	world(0);
	CHECK_EQ(life(staged, true, WELL), 0);
}

/* A link of several names may be in another mailbox than it was seen in last. */
static int
linked_often(void)
{
	char from[600], to[600];

	put("a/1.", "body");
	snprintf(from, sizeof(from), "%s/a/1.", root);
	snprintf(to, sizeof(to), "%s/b/1.", root);
	MUST(link(from, to) == 0);
	snprintf(to, sizeof(to), "%s/stage./x", root);
	MUST(link(from, to) == 0);
	MUST(fsync_of(enter(a, "a/1."), "a/1.") == 0 && syncs() == 0);
	MUST(write_index(b_index, "b/cyrus.index", "names 1") == 0 && syncs() == 1);
	return 0;
}

TEST(a_message_of_several_names_is_owed_by_all)
{
	world(0);
	CHECK_EQ(life(linked_often, true, WELL), 0);
}

/* cyrus.index.NEW takes the place of the index: that changes it, too. */
static int
repacked(void)
{
	put("a/cyrus.cache", "cache");
	MUST(fsync_of(enter(a, "a/cyrus.cache"), "a/cyrus.cache") == 0 && syncs() == 0);
	put("a/cyrus.index.NEW", "names 1");
	struct cap_name op = { .op = CAP_RENAME,
		.parent = a,
		.name = "cyrus.index.NEW",
		.target = enter(a, "a/cyrus.index.NEW"),
		.newparent = a,
		.newname = "cyrus.index",
		.replaced = a_index };
	MUST(capture_name_begin(&op) == 0 && syncs() == 1);
	return 0;
}

TEST(so_is_one_put_off_before_a_repack)
{
	world(0);
	CHECK_EQ(life(repacked, true, WELL), 0);
}

static int
heir_of_debts(void)
{
	MUST(syncs() == 0);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0 && syncs() == 1);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0 && syncs() == 1);
	return 0;
}

TEST(a_server_that_takes_over_pays_before_its_first_commit)
{
	world(0);
	CHECK_EQ(life(delivered, true, WELL), 0);
	CHECK_EQ(life(heir_of_debts, true, WELL), 0);
}

static int
refused(void)
{
	t_expect_log("the disk did not keep what was written");
	MUST(delivered() == 0);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == EIO);
	/* nor later, for nobody knows what is lost; others go on, each sync as it comes */
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == EIO);
	MUST(write_index(b_index, "b/cyrus.index", "names 0") == 0);
	uint64_t before = syncs();
	put("b/1.", "body");
	MUST(fsync_of(enter(b, "b/1."), "b/1.") == 0 && syncs() == before + 1);
	return 0;
}

static int
refused_still(void)
{
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == EIO);
	MUST(write_index(b_index, "b/cyrus.index", "names 0") == 0);
	return 0;
}

TEST(what_the_disk_did_not_keep_is_named_by_no_index)
{
	world(0);
	CHECK_EQ(life(refused, true, BROKEN), 0);
	CHECK_EQ(life(refused_still, true, WELL), 0);
}

static int
each_as_it_comes(void)
{
	MUST(delivered() == 0 && syncs() == 1);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0 && syncs() == 1);
	return 0;
}

TEST(nothing_is_put_off_where_each_is_asked_for)
{
	world(0);
	CHECK_EQ(life(each_as_it_comes, false, WELL), 0);
}

/* ---- and then the power goes ---- */

static bool asked; /* for the sync of the message, before the death */

static const char *
body(void)
{
	static char text[BODY + 1];

	memset(text, 'm', BODY);
	return text;
}

static int
body_written(void)
{
	char from[600], to[600];

	power_record(root, log_path);
	put("stage./x", body());
	struct inode *x = enter(stage, "stage./x");
	struct cap_name op = { .op = CAP_LINK, .parent = a, .name = "1.", .target = x };
	MUST(capture_name_begin(&op) == 0);
	snprintf(from, sizeof(from), "%s/stage./x", root);
	snprintf(to, sizeof(to), "%s/a/1.", root);
	MUST(link(from, to) == 0);
	capture_name_end(&op, 0);
	if (asked)
		MUST(fsync_of(enter(a, "a/1."), "a/1.") == 0);
	return 0;
}

static int
index_written(void)
{
	power_record(root, log_path);
	MUST(write_index(a_index, "a/cyrus.index", "names 1") == 0);
	return 0;
}

static bool
holds(const char *path, const char *text)
{
	char full[600], found[BODY + 2];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	int fd = open(full, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, found, sizeof(found)) : -1;
	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) && memcmp(found, text, (size_t)n) == 0;
}

/* The server dies between a body and the index that names it, the next one writes that, and the
 * disk keeps what it likes of all that was not synced. */
TEST(no_index_on_disk_names_a_body_that_is_not)
{
	unsigned named = 0;

	for (unsigned i = 0; i < CUTS; i++) {
		struct power_facts f;

		world(i);
		asked = t_rand() % 2 != 0;
		struct power *disk = power_open(root, log_path);
		CHECK_EQ(life(body_written, true, WELL), 0);
		CHECK_EQ(life(index_written, true, WELL), 0);
		power_cut(disk, POWER_ANY, t_rand, &f);
		power_close(disk);
		if (!holds("a/cyrus.index", "names 1"))
			continue;
		named++;
		CHECK(holds("a/1.", body()));
	}
	CHECK(named > 0);
}

T_MAIN
