/*
 * ex_lock - record locks, open file description locks, flock, and the loop by which Cyrus
 * makes sure that it holds the file that now has the name (FT9, FT13).
 */
#include "tests/mount/ex.h"

#include <sys/file.h>

static int
lock(int fd, int cmd, short type, off_t start, off_t len)
{
	struct flock l = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len
	};

	return fcntl(fd, cmd, &l);
}

/* Whether another process could have this lock. */
static bool
free_for(const char *path, short type, off_t start, off_t len)
{
	pid_t pid = ex_fork();
	int st;

	if (pid == 0) {
		int fd = open(path, O_RDWR);
		if (fd < 0)
			_exit(2);
		_exit(lock(fd, F_SETLK, type, start, len) == 0 ? 0
			: errno == EAGAIN || errno == EACCES   ? 1
							       : 3);
	}
	MUST(waitpid(pid, &st, 0));
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) <= 1);
	return WEXITSTATUS(st) == 0;
}

CASE(record_locks)
{
	TOUCH("f");
	int fd = MUST(open("f", O_RDWR));
	MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	CHECK(!free_for("f", F_RDLCK, 0, 1));
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	pid_t me = getpid(), pid = ex_fork();
	if (pid == 0) {
		int other = MUST(open("f", O_RDWR));
		MUST(fcntl(other, F_GETLK, &l));
		SAME(l.l_type, F_WRLCK);
		SAME(l.l_pid, me);
		/* a child does not inherit them */
		FAILS(lock(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
		_exit(0);
	}
	JOIN(pid);
	MUST(lock(fd, F_SETLK, F_RDLCK, 0, 0)); /* conversions */
	CHECK(free_for("f", F_RDLCK, 0, 0));
	CHECK(!free_for("f", F_WRLCK, 0, 0));
	MUST(lock(fd, F_SETLK, F_UNLCK, 0, 0));
	CHECK(free_for("f", F_WRLCK, 0, 0));
	MUST(lock(fd, F_SETLKW, F_WRLCK, 0, 0));
	MUST(lock(fd, F_SETLK, F_UNLCK, 10, 10));
	CHECK(free_for("f", F_WRLCK, 10, 10));
	CHECK(!free_for("f", F_WRLCK, 9, 2));
	CHECK(!free_for("f", F_WRLCK, 19, 2));
	int rd = MUST(open("f", O_RDONLY));
	FAILS(lock(rd, F_SETLK, F_WRLCK, 100, 1), EBADF);
}

CASE(any_close_drops_them)
{
	TOUCH("f");
	int fd = MUST(open("f", O_RDWR));
	MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	int other = MUST(open("f", O_RDONLY));
	MUST(close(other));
	CHECK(free_for("f", F_WRLCK, 0, 0));
	/* also by another of its names */
	MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	MUST(link("f", "g"));
	CHECK(!free_for("g", F_WRLCK, 0, 0));
	other = MUST(open("g", O_RDONLY));
	MUST(close(other));
	CHECK(free_for("f", F_WRLCK, 0, 0));
	/* and when a process ends */
	pid_t pid = ex_fork();
	if (pid == 0) {
		MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
		_exit(0);
	}
	JOIN(pid);
	CHECK(free_for("f", F_WRLCK, 0, 0));
}

static void
on_alarm(int sig)
{
	(void)sig;
}

CASE(waiting_and_interrupting)
{
	int ready[2];
	char c;

	TOUCH("f");
	int fd = MUST(open("f", O_RDWR));
	MUST(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	MUST(pipe(ready));
	pid_t pid = ex_fork();
	if (pid == 0) {
		struct sigaction sa = { .sa_handler = on_alarm };
		int other = MUST(open("f", O_RDWR));
		sigaction(SIGALRM, &sa, NULL);
		ualarm(50000, 0);
		FAILS(lock(other, F_SETLKW, F_WRLCK, 0, 0), EINTR);
		signal(SIGALRM, SIG_DFL);
		alarm(EX_SECONDS);
		SAME(write(ready[1], "r", 1), 1);
		MUST(lock(other, F_SETLKW, F_WRLCK, 0, 0));
		HOLDS("f", "unlocked");
		_exit(0);
	}
	SAME(read(ready[0], &c, 1), 1);
	/* while one waits, everything else goes on */
	PUT("g", "x");
	SAME(pwrite(fd, "unlocked", 8, 0), 8);
	MUST(lock(fd, F_SETLK, F_UNLCK, 0, 0));
	JOIN(pid);
}

CASE(deadlock_is_noticed)
{
	int ready[2];
	char c;

	TOUCH("a");
	TOUCH("b");
	int a = MUST(open("a", O_RDWR)), b = MUST(open("b", O_RDWR));
	MUST(lock(a, F_SETLK, F_WRLCK, 0, 0));
	MUST(pipe(ready));
	pid_t pid = ex_fork();
	if (pid == 0) {
		MUST(lock(b, F_SETLK, F_WRLCK, 0, 0));
		SAME(write(ready[1], "r", 1), 1);
		int r = lock(a, F_SETLKW, F_WRLCK, 0, 0);
		_exit(r == 0 || errno == EDEADLK ? 0 : 1);
	}
	SAME(read(ready[0], &c, 1), 1);
	/* one of the two is told; if it is the child, its lock goes with it */
	int r = lock(b, F_SETLKW, F_WRLCK, 0, 0);
	CHECK(r == 0 || errno == EDEADLK);
	MUST(lock(a, F_SETLK, F_UNLCK, 0, 0));
	JOIN(pid);
}

CASE(description_locks)
{
	TOUCH("f");
	int a = MUST(open("f", O_RDWR)), b = MUST(open("f", O_RDWR));
	MUST(lock(a, F_OFD_SETLK, F_WRLCK, 0, 100));
	FAILS(lock(b, F_OFD_SETLK, F_WRLCK, 50, 100), EAGAIN);
	MUST(lock(b, F_OFD_SETLK, F_WRLCK, 100, 100));
	CHECK(!free_for("f", F_WRLCK, 0, 1));
	int c = MUST(open("f", O_RDONLY));
	MUST(close(c)); /* another description's close means nothing */
	CHECK(!free_for("f", F_WRLCK, 0, 1));
	c = MUST(dup(a));
	MUST(close(a));
	CHECK(!free_for("f", F_WRLCK, 0, 1));
	MUST(close(c));
	CHECK(free_for("f", F_WRLCK, 0, 1));
	CHECK(!free_for("f", F_WRLCK, 100, 1));
}

CASE(flock_locks)
{
	TOUCH("f");
	int a = MUST(open("f", O_RDONLY)), b = MUST(open("f", O_RDONLY));
	MUST(flock(a, LOCK_EX));
	FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	FAILS(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	CHECK(free_for("f", F_WRLCK, 0, 0)); /* another kind of lock */
	MUST(flock(a, LOCK_SH));
	MUST(flock(b, LOCK_SH | LOCK_NB));
	FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	MUST(flock(a, LOCK_UN));
	MUST(flock(b, LOCK_EX | LOCK_NB));
	/* inherited, and held until the last copy is closed */
	int p[2];
	char c;
	MUST(pipe(p));
	pid_t pid = ex_fork();
	if (pid == 0) {
		close(p[1]);
		SAME(read(p[0], &c, 1), 0);
		_exit(0);
	}
	MUST(close(b));
	FAILS(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	MUST(close(p[1]));
	JOIN(pid);
	MUST(flock(a, LOCK_EX | LOCK_NB));
}

/* Lock, and see whether the name still means this file; begin again if not. */
static int
lock_by_name(const char *name)
{
	for (int tries = 0; tries < 1000; tries++) {
		int fd = MUST(open(name, O_RDWR));
		MUST(lock(fd, F_SETLKW, F_WRLCK, 0, 0));
		struct stat a = FSTAT(fd), b;
		if (stat(name, &b) == 0 && a.st_ino == b.st_ino)
			return fd;
		close(fd);
	}
	ex_die(__FILE__, __LINE__, "the number never agreed");
}

CASE(lock_loop_while_replaced)
{
	enum { PROCS = 5, ROUNDS = 120 };
	pid_t pids[PROCS];
	char name[32], b[16];

	PUT("f", "0");
	for (int i = 0; i < PROCS; i++) {
		pids[i] = ex_fork();
		if (pids[i] != 0)
			continue;
		for (int n = 0; n < ROUNDS; n++) {
			int fd = lock_by_name("f");
			ssize_t len = MUST(pread(fd, b, sizeof b - 1, 0));
			b[len] = '\0';
			int count = atoi(b) + 1;
			snprintf(b, sizeof b, "%d", count);
			if (n % 3 == 0) {
				snprintf(name, sizeof name, "f.NEW");
				int nd = MUST(
					open(name, O_CREAT | O_TRUNC | O_RDWR, 0644));
				MUST(lock(nd, F_SETLKW, F_WRLCK, 0, 0));
				SAME(write(nd, b, strlen(b)), strlen(b));
				MUST(rename(name, "f"));
				close(nd);
			} else
				SAME(pwrite(fd, b, strlen(b), 0), strlen(b));
			close(fd);
		}
		_exit(0);
	}
	for (int i = 0; i < PROCS; i++)
		JOIN(pids[i]);
	snprintf(b, sizeof b, "%d", PROCS * ROUNDS);
	HOLDS("f", b);
}

EX_MAIN
