/*
 * The table of known files over a real folder. Each test runs in children of its own, because
 * a server's private memory starts empty and a death is part of what is tested.
 */
#include "fs/inode.h"
#include "fs/known_path.h"
#include "fs/slot.h"
#include "fs/super.h"
#include "tests/lib/t.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX 1000
#define MUST(cond) \
	do { \
		if (!(cond)) \
			return __LINE__; \
	} while (0)

static struct inode_shared *sh;
static struct slot *slot;
static struct super su;
static int root_fd;
static int super_end; /* of the socket to the supervisor, which nobody reads here */

/* What a wait with an end asks for, which is then over at once; else as ever. */
static bool time_flies;
static clockid_t waited_by;
static long waited_s;

int
pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t by,
	const struct timespec *until)
{
	static int (*real)(pthread_cond_t *, pthread_mutex_t *, clockid_t,
		const struct timespec *);
	struct timespec now;

	if (!time_flies) {
		if (real == NULL)
			*(void **)&real = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
		return real(c, m, by, until);
	}
	clock_gettime(by, &now);
	waited_by = by;
	waited_s = until->tv_sec - now.tv_sec;
	return ETIMEDOUT;
}

static void
world(void)
{
	size_t size = inode_shared_size(MAX);
	int pair[2];

	sh = mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	slot = mmap(NULL, sizeof(*slot), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	inode_shared_init(sh, MAX);
	root_fd = open(t_tmpdir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0)
		su.pin_fd = pair[0];
	super_end = pair[1];
}

/* Runs a server's life in a child; 0, or the line where it went wrong. */
static int
life(int (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int *line = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		*line = inode_start(sh, &su, root_fd, 4) != 0 ? 1 : fn();
		/* exit statuses have eight bits, lines have more */
		if (*line != 0)
			printf("# line %d\n", *line);
		fflush(stdout);
		_exit(*line != 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static struct inode *
enter(const char *name, struct slot *s)
{
	struct inode *root = inode_get(INODE_ROOT), *ino = NULL;
	struct slot_handle h;
	struct stat st;
	int fd = openat(root_fd, name, O_PATH | O_NOFOLLOW);

	if (fd < 0 || fstat(fd, &st) != 0 || inode_handle_at(fd, "", &h) != 0 ||
		inode_enter(s, root, name, &h, &st, &ino) != 0)
		ino = NULL;
	close(fd);
	return ino;
}

static void
file(const char *name)
{
	close(openat(root_fd, name, O_CREAT | O_RDWR, 0644));
}

static int
counts(void)
{
	struct inode *a, *b;
	uint64_t id;

	file("a");
	MUST(linkat(root_fd, "a", root_fd, "b", 0) == 0);
	a = enter("a", slot);
	b = enter("b", slot);
	MUST(a != NULL && a == b);
	MUST(a->nlookup == 2 && slot->ngrants == 2);
	id = inode_nodeid(a);
	slot->ngrants = slot->progress = 0; /* answered */
	inode_forget(slot, 0, id, 1);
	MUST(inode_get(id) == a && a->nlookup == 1);
	inode_forget(slot, 0, id, 1); /* the same item once more */
	MUST(a->nlookup == 1);
	inode_forget(slot, 1, id, 1);
	MUST(inode_get(id) == NULL);
	a = enter("a", slot);
	MUST(a != NULL && inode_nodeid(a) != id); /* a number does not come back */
	MUST(inode_get(INODE_ROOT) != NULL);
	return 0;
}

TEST(counts_and_numbers)
{
	world();
	CHECK_EQ(life(counts), 0);
}

static int
answer_lost(void)
{
	file("a");
	MUST(enter("a", slot) != NULL);
	slot->ngrants = 0; /* that answer arrived */
	MUST(enter("a", slot) != NULL);
	file("b");
	MUST(enter("b", slot) != NULL); /* these two did not */
	return 0;
}

static int
after_death(void)
{
	struct inode *a = enter("a", NULL);

	MUST(a != NULL && a->nlookup == 2);
	MUST(inode_count() == 3);
	inode_grants_undo(slot);
	MUST(slot->ngrants == 0 && a->nlookup == 1 && inode_count() == 2);
	return 0;
}

static int
found_by_handle(void)
{
	struct slot_handle h;

	MUST(inode_handle_at(root_fd, "a", &h) == 0);
	MUST(inode_by_handle(&h) != NULL && inode_by_handle(&h)->nlookup == 1);
	MUST(inode_handle_at(root_fd, "b", &h) == 0);
	MUST(inode_by_handle(&h) == NULL);
	return 0;
}

TEST(a_death_between_counting_and_answering)
{
	world();
	CHECK_EQ(life(answer_lost), 0);
	CHECK_EQ(life(after_death), 0);
	CHECK_EQ(life(found_by_handle), 0);
}

static int
marked(void)
{
	struct inode *a;
	uint64_t id;

	file("a");
	a = enter("a", slot);
	id = inode_nodeid(a);
	slot->ngrants = slot->progress = 0;
	inode_mark(a, 6);
	inode_forget(slot, 0, id, 1);
	MUST(inode_get(id) == a);
	inode_unmark(a, 2);
	MUST(inode_get(id) == a);
	return 0;
}

static void
unmark_all(struct inode *ino, uint32_t marks, void *arg)
{
	*(uint32_t *)arg += marks;
	inode_unmark(ino, marks);
}

static int
unmarked(void)
{
	uint32_t seen = 0;

	inode_each_marked(unmark_all, &seen);
	MUST(seen == 4);
	inode_each_marked(unmark_all, &seen);
	MUST(seen == 4 && inode_count() == 1);
	return 0;
}

TEST(marks_outlive_forget_and_death)
{
	world();
	CHECK_EQ(life(marked), 0);
	CHECK_EQ(life(unmarked), 0);
}

static int
open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static int
descriptors(void)
{
	struct inode *inos[20];
	int fds[20], before = open_fds(), fd;
	char name[8];

	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		file(name);
		inos[i] = enter(name, NULL);
		inode_hold(inos[i]);
	}
	for (int i = 0; i < 20; i++)
		MUST(inode_fd(inos[i], INODE_WRITE, &fds[i]) == 0);
	MUST(open_fds() == before + 20); /* all in use: more than the bound */
	MUST(inode_fd(inos[0], INODE_READ, &fd) == 0 && fd == fds[0]);
	inode_fd_put(inos[0], fd);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		MUST(pwrite(fds[i], name, 3, 0) == 3);
		inode_fd_put(inos[i], fds[i]);
	}
	MUST(open_fds() <= before + 4);
	for (int i = 0; i < 20; i++) {
		char got[8] = "";

		snprintf(name, sizeof(name), "f%d", i);
		MUST(inode_fd(inos[i], INODE_ANY, &fd) == 0);
		MUST(pread(fd, got, 3, 0) == 3 && memcmp(got, name, 3) == 0);
		inode_fd_put(inos[i], fd);
	}
	MUST(open_fds() <= before + 4);
	for (int i = 0; i < 20; i++)
		inode_drop(inos[i]);
	MUST(open_fds() == before && inode_count() == 1);
	return 0;
}

TEST(descriptors_are_bounded)
{
	world();
	CHECK_EQ(life(descriptors), 0);
}

static int
without_a_name(void)
{
	struct inode *a;
	struct stat st;
	char got[4];
	int fd;

	file("a");
	a = enter("a", slot);
	MUST(inode_fd(a, INODE_WRITE, &fd) == 0);
	MUST(pwrite(fd, "abc", 3, 0) == 3);
	inode_fd_put(a, fd);
	for (int i = 0; i < 10; i++) { /* push its descriptor out of the cache */
		char name[8];
		struct inode *ino;

		snprintf(name, sizeof(name), "x%d", i);
		file(name);
		ino = enter(name, slot);
		MUST(inode_fd(ino, INODE_READ, &fd) == 0);
		inode_fd_put(ino, fd);
	}
	MUST(inode_pin(a) == 0 && inode_pin(a) == 0);
	MUST(unlinkat(root_fd, "a", 0) == 0);
	MUST(inode_fd(a, INODE_WRITE, &fd) == 0);
	MUST(pread(fd, got, 3, 0) == 3 && memcmp(got, "abc", 3) == 0);
	MUST(fstat(fd, &st) == 0 && st.st_nlink == 0);
	inode_fd_put(a, fd);
	return 0;
}

TEST(a_pinned_file_needs_no_name)
{
	world();
	CHECK_EQ(life(without_a_name), 0);
}

static int
paths(void)
{
	struct inode *root = inode_get(INODE_ROOT), *d;
	char buf[64];

	MUST(inode_path(root, buf, sizeof(buf)) == 0 && buf[0] == '\0');
	MUST(mkdirat(root_fd, "d", 0755) == 0);
	d = enter("d", slot);
	MUST(inode_path(d, buf, sizeof(buf)) == 0 && strcmp(buf, "d") == 0);
	MUST(inode_place(d).kind == PLACE_DIR && inode_parent(d) == root);
	MUST(renameat(root_fd, "d", root_fd, "stage.") == 0);
	inode_moved(d, root, "stage.");
	MUST(inode_path(d, buf, sizeof(buf)) == 0 && strcmp(buf, "stage.") == 0);
	MUST(inode_place(d).kind == PLACE_STAGE);
	MUST(inode_path(d, buf, 3) == ENAMETOOLONG);
	MUST(unlinkat(root_fd, "stage.", AT_REMOVEDIR) == 0);
	MUST(inode_path(d, buf, sizeof(buf)) == ENOENT);
	return 0;
}

TEST(paths_of_folders)
{
	world();
	CHECK_EQ(life(paths), 0);
}

/* A reader that looks "a" up on a thread of its own. */
static _Atomic int looked_up;

static void *
look_up(void *arg)
{
	(void)arg;
	if (enter("a", NULL) != NULL)
		atomic_store(&looked_up, 1);
	return NULL;
}

static bool
stays_out(void)
{
	for (int i = 0; i < 50 && !atomic_load(&looked_up); i++)
		usleep(1000);
	return !atomic_load(&looked_up);
}

static int
claims(void)
{
	pthread_t reader;
	struct inode *a;
	int before, fd;

	file("a");
	fd = openat(root_fd, "a", O_RDWR);
	inode_claims_settled();
	MUST(inode_claim(fd));
	MUST(!inode_claim(fd)); /* one at a time */
	MUST(pthread_create(&reader, NULL, look_up, NULL) == 0);
	MUST(stays_out());
	inode_unclaim(fd);
	MUST(pthread_join(reader, NULL) == 0 && atomic_load(&looked_up) == 1);
	a = enter("a", NULL);
	inode_hold(a);
	before = open_fds();
	MUST(!inode_claim(fd)); /* known: pinned instead */
	MUST(open_fds() == before + 1);
	MUST(unlinkat(root_fd, "a", 0) == 0);
	MUST(inode_losing(fd)); /* pinned already */
	MUST(open_fds() == before + 1);
	inode_drop(a);
	MUST(open_fds() == before);
	MUST(!inode_losing(fd)); /* not known */
	close(fd);
	return 0;
}

TEST(in_place_only_while_unknown)
{
	world();
	CHECK_EQ(life(claims), 0);
}

static int
claimed_and_dead(void)
{
	file("a");
	file("b");
	MUST(inode_claim(openat(root_fd, "a", O_RDWR)));
	MUST(inode_claim(openat(root_fd, "b", O_RDWR)));
	return 0;
}

static int
claims_that_were_left(void)
{
	pthread_t reader;
	int fd = openat(root_fd, "a", O_RDWR);

	MUST(pthread_create(&reader, NULL, look_up, NULL) == 0);
	MUST(stays_out());
	MUST(inode_claim(fd)); /* it is done again, */
	inode_unclaim(fd);
	MUST(stays_out()); /* and more may come */
	inode_claims_settled();
	MUST(pthread_join(reader, NULL) == 0 && atomic_load(&looked_up) == 1);
	MUST(enter("b", NULL) != NULL);
	return 0;
}

TEST(a_claim_outlives_the_server)
{
	world();
	CHECK_EQ(life(claimed_and_dead), 0);
	CHECK_EQ(life(claims_that_were_left), 0);
}

static void *
look_up_index(void *arg)
{
	struct inode *d = enter("d", NULL), *ino = NULL;
	struct slot_handle h;
	struct stat st;

	(void)arg;
	if (d != NULL && fstatat(root_fd, "d/cyrus.index", &st, 0) == 0 &&
		inode_handle_at(root_fd, "d/cyrus.index", &h) == 0 &&
		inode_enter(NULL, d, "cyrus.index", &h, &st, &ino) == 0)
		atomic_store(&looked_up, 1);
	return NULL;
}

static int
index_over_new_memory(void)
{
	pthread_t reader;

	MUST(mkdirat(root_fd, "d", 0755) == 0);
	file("d/cyrus.index");
	file("a");
	MUST(enter("a", NULL) != NULL);
	MUST(pthread_create(&reader, NULL, look_up_index, NULL) == 0);
	MUST(stays_out());
	inode_claims_settled();
	MUST(pthread_join(reader, NULL) == 0 && atomic_load(&looked_up) == 1);
	return 0;
}

static int
index_of_the_next_life(void)
{
	(void)look_up_index(NULL);
	MUST(atomic_load(&looked_up) == 1);
	return 0;
}

TEST(over_new_memory_any_index_may_be_half_done)
{
	world();
	CHECK_EQ(life(index_over_new_memory), 0);
	CHECK_EQ(life(index_of_the_next_life), 0);
}

static bool
gets_in(void)
{
	for (int i = 0; i < 5000 && !atomic_load(&looked_up); i++)
		usleep(1000);
	return atomic_load(&looked_up);
}

/* Ten seconds, whatever somebody does to the wall clock, and nobody after that waits again. */
static int
waits_with_an_end(void *(*reader)(void *))
{
	pthread_t thread;

	t_expect_log("readers go first");
	time_flies = true;
	MUST(pthread_create(&thread, NULL, reader, NULL) == 0);
	MUST(gets_in());
	MUST(pthread_join(thread, NULL) == 0);
	MUST(waited_by == CLOCK_MONOTONIC && waited_s >= 9 && waited_s <= 10);
	waited_s = 0;
	MUST(reader(NULL) == NULL && waited_s == 0);
	return 0;
}

static int
left_for_ever(void)
{
	return waits_with_an_end(look_up);
}

static int
half_done_for_ever(void)
{
	MUST(mkdirat(root_fd, "d", 0755) == 0);
	file("d/cyrus.index");
	return waits_with_an_end(look_up_index);
}

TEST(what_replay_never_comes_to_keeps_no_reader_for_ever)
{
	world();
	CHECK_EQ(life(claimed_and_dead), 0);
	CHECK_EQ(life(left_for_ever), 0);
	world();
	CHECK_EQ(life(half_done_for_ever), 0);
}

static void *
lose(void *fd)
{
	(void)inode_losing(*(int *)fd);
	return NULL;
}

/* The kernel forgets a file while replay pins it, which lasts here until the supervisor listens. */
static int
forgotten_meanwhile(void)
{
	char msg[64];
	pthread_t thread;
	struct inode *a;
	int fd, before;

	file("a");
	fd = openat(root_fd, "a", O_RDWR);
	a = enter("a", slot);
	MUST(a != NULL);
	slot->ngrants = slot->progress = 0;
	while (send(su.pin_fd, msg, 1, MSG_DONTWAIT) == 1)
		continue;
	before = open_fds();
	MUST(pthread_create(&thread, NULL, lose, &fd) == 0);
	for (int i = 0; i < 5000 && open_fds() == before; i++)
		usleep(1000);
	MUST(open_fds() == before + 1);
	inode_forget(slot, 0, inode_nodeid(a), 1);
	MUST(fcntl(super_end, F_SETFL, O_NONBLOCK) == 0);
	while (recv(super_end, msg, sizeof(msg), 0) > 0)
		continue;
	MUST(pthread_join(thread, NULL) == 0);
	file("b");
	MUST(enter("b", NULL) != NULL); /* in the place of "a" */
	MUST(open_fds() == before);
	return 0;
}

TEST(a_pin_does_not_outlive_its_file)
{
	world();
	CHECK_EQ(life(forgotten_meanwhile), 0);
}

static bool
lies_at(struct inode *dir, uint64_t names, const char *path)
{
	char buf[64];

	return known_path(dir, names, buf, sizeof(buf)) == 0 && strcmp(buf, path) == 0;
}

static int
moved_about(void)
{
	struct inode *in, *other;
	char buf[64];

	MUST(mkdirat(root_fd, "a", 0755) == 0 && mkdirat(root_fd, "a/in", 0755) == 0);
	in = enter("a/in", slot);
	MUST(in != NULL && lies_at(in, 1, "a/in") && lies_at(in, 1, "a/in"));
	/* behind our back, and another takes its name */
	MUST(renameat(root_fd, "a", root_fd, "b") == 0);
	MUST(lies_at(in, 1, "b/in"));
	MUST(renameat(root_fd, "b", root_fd, "c") == 0);
	MUST(mkdirat(root_fd, "b", 0755) == 0 && mkdirat(root_fd, "b/in", 0755) == 0);
	MUST(lies_at(in, 1, "c/in"));
	/* through the mount, and its old name leads there all the same */
	MUST(renameat(root_fd, "c", root_fd, "d") == 0);
	MUST(symlinkat("d", root_fd, "c") == 0);
	MUST(lies_at(in, 2, "d/in"));
	MUST(known_path(in, 2, buf, 4) == ENAMETOOLONG);
	other = enter("b/in", slot);
	MUST(other != NULL && lies_at(other, 2, "b/in") && lies_at(in, 2, "d/in"));
	MUST(unlinkat(root_fd, "d/in", AT_REMOVEDIR) == 0);
	MUST(known_path(in, 2, buf, sizeof(buf)) == ENOENT);
	return 0;
}

TEST(a_known_path_leads_to_its_folder)
{
	world();
	CHECK_EQ(life(moved_about), 0);
}

static int
full(void)
{
	char name[16];
	int i;

	for (i = 0; i < MAX + 10; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		file(name);
		slot->ngrants = 0;
		if (enter(name, slot) == NULL)
			break;
	}
	MUST(i == MAX - 2); /* 0 is no number and 1 is the root */
	MUST(enter("f0", slot) != NULL); /* what is known stays known */
	return 0;
}

TEST(the_table_is_bounded)
{
	world();
	CHECK_EQ(life(full), 0);
}

T_MAIN
