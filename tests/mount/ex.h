/*
 * ex.h - the harness of the exercisers: CASE, MUST, FAILS, SAME; TAP on standard output.
 *
 *   CASE(name) { MUST(mkdir("d", 0755)); FAILS(rmdir("no"), ENOENT); }
 *   EX_MAIN
 *
 * A program ex_X takes a folder and says how that folder behaves:
 *
 *   ex_X FOLDER [xattr=yes|no] [only=CASE]
 *
 * Expectations are ext4's, so that each program passes on a plain ext4 folder; where a file
 * system may refuse (O_TMPFILE, some fallocate modes) the refusal must be a clean one. Each
 * case runs in a process of its own, in a fresh folder that is its current directory, with a
 * limit of time; afterwards that folder is removed, which must succeed as well.
 * Header only, because each tests/mount/ *.c is a program of its own. Run as root.
 */
#ifndef TESTS_MOUNT_EX_H
#define TESTS_MOUNT_EX_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EX_UNUSED __attribute__((unused))
#define EX_SECONDS 120 /* for one case */
#define EX_CASES 128

/* Two ordinary users and a group that neither has as its own. */
#define UID_A 54001
#define UID_B 54002
#define GID_C 54009

typedef void ex_fn(void);

static struct ex_case {
	const char *name;
	ex_fn *fn;
} ex_cases[EX_CASES];
static int ex_count;
static bool ex_xattr = true;

static EX_UNUSED void
ex_register(const char *name, ex_fn *fn)
{
	if (ex_count < EX_CASES)
		ex_cases[ex_count++] = (struct ex_case){ name, fn };
}

static EX_UNUSED void __attribute__((noreturn, format(printf, 3, 4)))
ex_die(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	printf("# %s:%d: ", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

#define CASE(name) \
	static void case_##name(void); \
	static void __attribute__((constructor)) ex_reg_##name(void) \
	{ \
		ex_register(#name, case_##name); \
	} \
	static void case_##name(void)

#define CHECK(cond) \
	do { \
		if (!(cond)) \
			ex_die(__FILE__, __LINE__, "%s", #cond); \
	} while (0)

#define SAME(a, b) \
	do { \
		long long ex_a = (long long)(a), ex_b = (long long)(b); \
		if (ex_a != ex_b) \
			ex_die(__FILE__, __LINE__, "%s is %lld, expected %lld (%s)", \
				#a, ex_a, ex_b, #b); \
	} while (0)

/* Gives the call's value; dies if it is negative. */
#define MUST(call) \
	({ \
		long long ex_r = (long long)(call); \
		if (ex_r < 0) \
			ex_die(__FILE__, __LINE__, "%s: %s", #call, strerror(errno)); \
		ex_r; \
	})

#define FAILS(call, err) \
	do { \
		errno = 0; \
		long long ex_r = (long long)(call); \
		if (ex_r >= 0) \
			ex_die(__FILE__, __LINE__, "%s succeeded, expected %s", #call, \
				#err); \
		if (errno != (err)) \
			ex_die(__FILE__, __LINE__, "%s: %s, expected %s", #call, \
				strerror(errno), #err); \
	} while (0)

/* A child process does what follows; EX_JOIN waits and fails if it failed. */
static EX_UNUSED void
ex_join(pid_t pid, const char *file, int line)
{
	int st = 0;

	while (waitpid(pid, &st, 0) < 0)
		if (errno != EINTR)
			ex_die(file, line, "waitpid: %s", strerror(errno));
	if (!WIFEXITED(st) || WEXITSTATUS(st) != 0)
		ex_die(file, line, "a child failed, status %#x", (unsigned)st);
}

#define JOIN(pid) ex_join(pid, __FILE__, __LINE__)

static EX_UNUSED pid_t
ex_fork(void)
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0)
		ex_die(__FILE__, __LINE__, "fork: %s", strerror(errno));
	if (pid == 0)
		alarm(EX_SECONDS);
	return pid;
}

/* The body as another user, in a child, with GID_C as a supplementary group if asked. */
#define AS(uid, extra) \
	for (pid_t ex_p = ex_fork(); ex_p >= 0; JOIN(ex_p), ex_p = -1) \
		for (bool ex_in = ex_p == 0 && ex_become(uid, extra); ex_in; \
			ex_in = ex_leave())

/* Ends the child; never returns, but clang wants the loop above to have a step. */
static EX_UNUSED bool
ex_leave(void)
{
	fflush(stdout);
	_exit(0);
}

static EX_UNUSED bool
ex_become(uid_t uid, bool extra)
{
	gid_t groups[] = { GID_C };

	if (setgroups(extra ? 1 : 0, groups) != 0 || setresgid(uid, uid, uid) != 0 ||
		setresuid(uid, uid, uid) != 0)
		ex_die(__FILE__, __LINE__, "become %d: %s", (int)uid, strerror(errno));
	return true;
}

/* This case cannot be tried here. */
#define SKIP(why) \
	do { \
		printf("# skip: %s\n", why); \
		fflush(stdout); \
		_exit(77); \
	} while (0)

static EX_UNUSED struct stat
ex_stat(const char *path, const char *file, int line)
{
	struct stat st;

	if (lstat(path, &st) != 0)
		ex_die(file, line, "lstat %s: %s", path, strerror(errno));
	return st;
}

static EX_UNUSED struct stat
ex_fstat(int fd, const char *file, int line)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		ex_die(file, line, "fstat: %s", strerror(errno));
	return st;
}

#define STAT(path) ex_stat(path, __FILE__, __LINE__)
#define FSTAT(fd) ex_fstat(fd, __FILE__, __LINE__)

/* A new or truncated file with these bytes. */
static EX_UNUSED void
ex_put(const char *path, const void *p, size_t n, const char *file, int line)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	if (fd < 0 || write(fd, p, n) != (ssize_t)n || close(fd) != 0)
		ex_die(file, line, "write %s: %s", path, strerror(errno));
}

#define PUT(path, text) ex_put(path, text, strlen(text), __FILE__, __LINE__)
#define TOUCH(path) ex_put(path, "", 0, __FILE__, __LINE__)

/* The file has exactly these bytes, by read and by size. */
static EX_UNUSED void
ex_holds(const char *path, const void *want, size_t n, const char *file, int line)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	char *got = malloc(n + 1);

	if (fd < 0 || got == NULL || fstat(fd, &st) != 0)
		ex_die(file, line, "open %s: %s", path, strerror(errno));
	ssize_t len = read(fd, got, n + 1);
	if (len != (ssize_t)n || memcmp(got, want, n) != 0)
		ex_die(file, line, "%s holds %zd bytes \"%.*s\", expected \"%.*s\"",
			path, len, len > 60 ? 60 : (int)len, got, n > 60 ? 60 : (int)n,
			(const char *)want);
	if (st.st_size != (off_t)n)
		ex_die(file, line, "%s: size %lld, expected %zu", path,
			(long long)st.st_size, n);
	free(got);
	close(fd);
}

#define HOLDS(path, text) ex_holds(path, text, strlen(text), __FILE__, __LINE__)

/* Until the clock that stamps files has moved, so that a later stamp differs. */
static EX_UNUSED void
ex_tick(void)
{
	struct timespec a, b, nap = { 0, 2000000 };

	clock_gettime(CLOCK_REALTIME_COARSE, &a);
	do {
		nanosleep(&nap, NULL);
		clock_gettime(CLOCK_REALTIME_COARSE, &b);
	} while (b.tv_sec == a.tv_sec && b.tv_nsec - a.tv_nsec < 12000000);
}

static EX_UNUSED int
ex_cmp(struct timespec a, struct timespec b)
{
	if (a.tv_sec != b.tv_sec)
		return a.tv_sec < b.tv_sec ? -1 : 1;
	return a.tv_nsec < b.tv_nsec ? -1 : a.tv_nsec > b.tv_nsec;
}

/* A tree, whatever its depth. Dies where a folder does not go. */
static EX_UNUSED void
ex_remove(int at, const char *name, const char *file, int line)
{
	char here[600];
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

	if (fd < 0) {
		if (unlinkat(at, name, 0) != 0 && errno != ENOENT)
			ex_die(file, line, "unlink %s: %s", name, strerror(errno));
		return;
	}
	DIR *d = fdopendir(fd);
	if (d == NULL)
		ex_die(file, line, "fdopendir %s: %s", name, strerror(errno));
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(here, sizeof here, "%s", e->d_name);
		ex_remove(dirfd(d), here, file, line);
	}
	closedir(d);
	if (unlinkat(at, name, AT_REMOVEDIR) != 0)
		ex_die(file, line, "rmdir %s: %s", name, strerror(errno));
}

#define REMOVE(name) ex_remove(AT_FDCWD, name, __FILE__, __LINE__)

/* In a process of its own, so that a folder that does not go fails the case alone. */
static EX_UNUSED pid_t
ex_clean(const char *home)
{
	pid_t pid = ex_fork();

	if (pid == 0) {
		ex_remove(AT_FDCWD, home, "clean-up", 0);
		_exit(0);
	}
	return pid;
}

/* Runs one case; the exit status says how it went. */
static EX_UNUSED int
ex_run(const char *folder, const struct ex_case *c)
{
	char home[PATH_MAX];
	int st = 0;

	snprintf(home, sizeof home, "%s/%s.%d", folder, c->name, (int)getpid());
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(EX_SECONDS);
		setpgid(0, 0);
		umask(022);
		MUST(mkdir(home, 0755));
		MUST(chdir(home));
		c->fn();
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &st, 0) < 0)
		return 1;
	kill(-pid, SIGKILL); /* what the case left running */
	if (WIFSIGNALED(st))
		printf("# killed by signal %d%s\n", WTERMSIG(st),
			WTERMSIG(st) == SIGALRM ? ": too slow" : "");
	int rc = WIFEXITED(st) ? WEXITSTATUS(st) : 1;
	if (rc == 0 || rc == 77) {
		pid = ex_clean(home);
		if (waitpid(pid, &st, 0) < 0 || st != 0)
			rc = 1;
	}
	return rc;
}

static EX_UNUSED int
ex_main(int argc, char **argv)
{
	const char *only = NULL;
	int failed = 0, ran = 0;

	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "xattr=no") == 0)
			ex_xattr = false;
		else if (strncmp(argv[i], "only=", 5) == 0)
			only = argv[i] + 5;
	}
	if (argc < 2 || geteuid() != 0) {
		fprintf(stderr, "usage (root): %s FOLDER [xattr=no] [only=CASE]\n",
			argv[0]);
		return 2;
	}
	for (int i = 0; i < ex_count; i++) {
		if (only != NULL && strcmp(only, ex_cases[i].name) != 0)
			continue;
		int rc = ex_run(argv[1], &ex_cases[i]);
		printf("%s %d - %s%s\n", rc == 0 || rc == 77 ? "ok" : "not ok", ++ran,
			ex_cases[i].name, rc == 77 ? " # SKIP" : "");
		failed += rc != 0 && rc != 77;
	}
	printf("1..%d\n", ran);
	return failed != 0 || ran == 0;
}

#define EX_MAIN \
	int main(int argc, char **argv) \
	{ \
		return ex_main(argc, argv); \
	}

#endif
