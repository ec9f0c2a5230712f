/*
 * ex_dir - listing folders: every entry once, also while entries go and come (FT20), offsets
 * that stay good, kinds and numbers that agree with lstat.
 */
#include "tests/mount/ex.h"

#include <pthread.h>
#include <sys/syscall.h>

/* Several times what one answer to READDIR, or glibc's buffer, can hold. */
#define MANY 1500

static uint8_t seen[MANY];

static void
fill(const char *dir, int n)
{
	char name[64];

	for (int i = 0; i < n; i++) {
		/* lengths of many kinds, so that buffers end anywhere */
		snprintf(name, sizeof name, "%s/%d.%.*s", dir, i, i % 30,
			"abcdefghijklmnopqrstuvwxyzabcdefgh");
		int fd = MUST(open(name, O_CREAT | O_EXCL | O_WRONLY, 0644));
		close(fd);
	}
}

/* Counts an entry; false for "." and "..". */
static bool
tally(const char *name)
{
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	int i = atoi(name);
	if (i < 0 || i >= MANY)
		ex_die(__FILE__, __LINE__, "a name that was never made: %s", name);
	seen[i]++;
	return true;
}

CASE(unlink_each_entry_seen)
{
	MUST(mkdir("d", 0755));
	fill("d", MANY);
	DIR *d = opendir("d");
	CHECK(d != NULL);
	errno = 0;
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		if (tally(e->d_name))
			MUST(unlinkat(dirfd(d), e->d_name, 0));
	SAME(errno, 0);
	for (int i = 0; i < MANY; i++)
		SAME(seen[i], 1);
	MUST(rmdir("d"));
	closedir(d);
}

/* With a buffer for one or two entries, so that each call asks anew from an offset. */
CASE(unlink_with_tiny_buffers)
{
	enum { FEW = 250 };
	static const size_t sizes[] = { 64, 100, 300, 1000 };

	for (size_t s = 0; s < 4; s++) {
		memset(seen, 0, sizeof seen);
		MUST(mkdir("d", 0755));
		fill("d", FEW);
		int fd = MUST(open("d", O_RDONLY | O_DIRECTORY));
		char buf[1000];
		for (;;) {
			long n = MUST(syscall(SYS_getdents64, fd, buf, sizes[s]));
			if (n == 0)
				break;
			for (long at = 0; at < n;) {
				struct dirent64 *e = (void *)(buf + at);
				if (tally(e->d_name))
					MUST(unlinkat(fd, e->d_name, 0));
				at += e->d_reclen;
			}
		}
		for (int i = 0; i < FEW; i++)
			SAME(seen[i], 1);
		MUST(rmdir("d"));
		close(fd);
	}
	int fd = MUST(open(".", O_RDONLY | O_DIRECTORY));
	char small[10];
	FAILS(syscall(SYS_getdents64, fd, small, sizeof small), EINVAL);
}

CASE(unlink_others_while_listing)
{
	char path[128], keep[MANY][48];

	MUST(mkdir("d", 0755));
	fill("d", MANY / 2);
	DIR *d = opendir("d");
	int n = 0, gone = 0;
	memset(keep, 0, sizeof keep);
	for (int i = 0; i < MANY / 2; i++)
		snprintf(keep[i], sizeof keep[i], "%d.%.*s", i, i % 30,
			"abcdefghijklmnopqrstuvwxyzabcdefgh");
	for (struct dirent *e; (e = readdir(d)) != NULL; n++) {
		tally(e->d_name);
		/* one that may or may not have been listed, in an order of its own */
		int victim = (n * 7919) % (MANY / 2);
		if (n % 3 == 0 && keep[victim][0] != '\0') {
			snprintf(path, sizeof path, "d/%s", keep[victim]);
			MUST(unlink(path));
			keep[victim][0] = '\0';
			gone++;
		}
		/* and new ones, which may or may not appear */
		if (n % 5 == 0 && MANY / 2 + n < MANY) {
			snprintf(path, sizeof path, "d/%d.new", MANY / 2 + n);
			TOUCH(path);
		}
	}
	closedir(d);
	CHECK(gone > 100);
	for (int i = 0; i < MANY; i++)
		CHECK(seen[i] <= 1);
	for (int i = 0; i < MANY / 2; i++)
		if (keep[i][0] != '\0')
			SAME(seen[i], 1);
	REMOVE("d");
}

CASE(telldir_and_seekdir)
{
	enum { N = 700 };
	static long at[N + 2];
	static char name[N + 2][256];
	int n = 0;

	MUST(mkdir("d", 0755));
	fill("d", N);
	DIR *d = opendir("d");
	for (;;) {
		long here = telldir(d);
		struct dirent *e = readdir(d);
		if (e == NULL)
			break;
		CHECK(n < N + 2);
		at[n] = here;
		snprintf(name[n++], sizeof name[0], "%s", e->d_name);
	}
	SAME(n, N + 2);
	for (int i = 0; i < 3 * N; i++) {
		int k = (i * 7919) % n;
		seekdir(d, at[k]);
		struct dirent *e = readdir(d);
		CHECK(e != NULL);
		CHECK(strcmp(e->d_name, name[k]) == 0);
	}
	/* an offset stays good when entries before it go */
	int k = n / 2;
	for (int i = 0; i < k; i++)
		if (name[i][0] != '.')
			MUST(unlinkat(dirfd(d), name[i], 0));
	seekdir(d, at[k]);
	for (; k < n; k++) {
		struct dirent *e = readdir(d);
		CHECK(e != NULL);
		CHECK(strcmp(e->d_name, name[k]) == 0);
	}
	CHECK(readdir(d) == NULL);
	rewinddir(d);
	int left = 0;
	while (readdir(d) != NULL)
		left++;
	CHECK(left <= n - n / 2 + 2 && left >= n - n / 2);
	TOUCH("d/1.late");
	rewinddir(d);
	bool late = false;
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		late |= strcmp(e->d_name, "1.late") == 0;
	CHECK(late);
	closedir(d);
	/* two readers of one folder do not disturb each other */
	DIR *a = opendir("d"), *b = opendir("d");
	struct dirent *e, *f;
	while ((e = readdir(a)) != NULL) {
		f = readdir(b);
		CHECK(f != NULL);
		CHECK(strcmp(e->d_name, f->d_name) == 0);
	}
	closedir(a);
	closedir(b);
}

CASE(kinds_and_numbers)
{
	MUST(mkdir("d", 0755));
	MUST(mkdir("d/dir", 0755));
	TOUCH("d/file");
	MUST(symlink("x", "d/link"));
	MUST(mkfifo("d/fifo", 0600));
	MUST(mknod("d/sock", S_IFSOCK | 0600, 0));
	MUST(link("d/file", "d/file2"));
	for (int round = 0; round < 3; round++) {
		DIR *d = opendir("d");
		int n = 0, dots = 0;
		for (struct dirent *e; (e = readdir(d)) != NULL; n++) {
			struct stat st;
			MUST(fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW));
			SAME(e->d_ino, st.st_ino);
			SAME(DTTOIF(e->d_type), st.st_mode & S_IFMT);
			dots += e->d_name[0] == '.';
		}
		SAME(n, 8);
		SAME(dots, 2);
		closedir(d);
	}
	SAME(STAT("d/file").st_ino, STAT("d/file2").st_ino);
	SAME(STAT("d/..").st_ino, STAT(".").st_ino);
	SAME(STAT("d/.").st_ino, STAT("d").st_ino);
	/* replaced under one name, listed with the new number */
	TOUCH("d/x");
	MUST(rename("d/x", "d/file"));
	DIR *d = opendir("d");
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		if (strcmp(e->d_name, "file") == 0)
			SAME(e->d_ino, STAT("d/file").st_ino);
	closedir(d);
}

CASE(listing_a_removed_folder)
{
	char buf[1000];

	MUST(mkdir("d", 0755));
	TOUCH("d/f");
	int fd = MUST(open("d", O_RDONLY | O_DIRECTORY));
	FAILS(rmdir("d"), ENOTEMPTY);
	MUST(unlink("d/f"));
	MUST(rmdir("d"));
	FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOENT);
	MUST(mkdir("d", 0755));
	TOUCH("d/g");
	FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOENT);
}

CASE(listing_while_moved)
{
	MUST(mkdir("d", 0755));
	fill("d", MANY);
	DIR *d = opendir("d");
	for (int i = 0; i < MANY / 4; i++)
		tally(readdir(d)->d_name);
	MUST(rename("d", "e"));
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		tally(e->d_name);
	for (int i = 0; i < MANY; i++)
		SAME(seen[i], 1);
	closedir(d);
}

struct churn {
	pthread_t thread;
	int id;
	bool stop;
	const char *failed;
};

/* Makes, moves and removes its own names in the common folder. */
static void *
churn(void *arg)
{
	struct churn *c = arg;
	char a[64], b[64];
	struct stat st;

	for (int i = 0; i < 100 && c->failed == NULL; i++) {
		snprintf(a, sizeof a, "d/%d.c%d", MANY - 1 - c->id, i);
		snprintf(b, sizeof b, "d/%d.m%d", MANY - 1 - c->id, i);
		int fd = open(a, O_CREAT | O_EXCL | O_RDWR, 0644);
		if (fd < 0 || write(fd, a, 5) != 5)
			c->failed = "create";
		else if (rename(a, b) != 0 || lstat(a, &st) == 0 || lstat(b, &st) != 0)
			c->failed = "rename";
		else if (link(b, a) != 0 || lstat(a, &st) != 0 || st.st_nlink != 2)
			c->failed = "link";
		else if (unlink(a) != 0 || unlink(b) != 0)
			c->failed = "unlink";
		else if (fstat(fd, &st) != 0 || st.st_nlink != 0 || st.st_size != 5)
			c->failed = "fstat";
		close(fd);
	}
	__atomic_store_n(&c->stop, true, __ATOMIC_RELEASE);
	return NULL;
}

/* What is there all the time is listed once each time, whatever goes on around it. */
CASE(listing_while_others_change)
{
	enum { STAY = MANY - 4 };
	struct churn c[4] = { 0 };

	MUST(mkdir("d", 0755));
	fill("d", STAY);
	for (int i = 0; i < 4; i++) {
		c[i].id = i;
		SAME(pthread_create(&c[i].thread, NULL, churn, &c[i]), 0);
	}
	for (bool over = false; !over;) {
		over = true;
		for (int i = 0; i < 4; i++)
			over &= __atomic_load_n(&c[i].stop, __ATOMIC_ACQUIRE);
		memset(seen, 0, sizeof seen);
		DIR *d = opendir("d");
		for (struct dirent *e; (e = readdir(d)) != NULL;)
			tally(e->d_name);
		closedir(d);
		for (int i = 0; i < STAY; i++)
			SAME(seen[i], 1);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(c[i].thread, NULL);
		if (c[i].failed != NULL)
			ex_die(__FILE__, __LINE__, "thread %d: %s", i, c[i].failed);
	}
}

CASE(trees_come_and_go)
{
	for (int round = 0; round < 2; round++) {
		char path[64];
		MUST(mkdir("t", 0755));
		for (int i = 0; i < 10; i++) {
			snprintf(path, sizeof path, "t/%d", i);
			MUST(mkdir(path, 0755));
			fill(path, 30);
		}
		SAME(system("cp -a t u && diff -r t u"), 0);
		SAME(system("rm -rf t u"), 0);
		CHECK(access("t", F_OK) != 0);
	}
}

EX_MAIN
