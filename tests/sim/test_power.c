/*
 * test_power.c - the model of a disk tells what it should: what was synced is there, what was not
 * may be lost, and nothing appears that never was.
 *
 * A child records and is killed; each test looks at the folder as the cut leaves it.
 */
#include "tests/lib/t.h"
#include "tests/sim/power.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[300], log_path[310];

static void
must(bool ok)
{
	if (!ok)
		abort();
}

static void
put(const char *name, const void *p, size_t n, off_t at, bool sync)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0640);
	must(fd >= 0 && pwrite(fd, p, n, at) == (ssize_t)n &&
		(!sync || fsync(fd) == 0));
	close(fd);
}

/* The file's bytes as a string; NULL: it is not there. */
static const char *
get(const char *name)
{
	static char text[4][9000];
	static int turn;
	char path[400], *out = text[turn++ % 4];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return NULL;
	ssize_t n = read(fd, out, 8999);
	out[n > 0 ? n : 0] = '\0';
	close(fd);
	return out;
}

static void
move(const char *from, const char *to)
{
	char a[400], b[400];

	snprintf(a, sizeof(a), "%s/%s", root, from);
	snprintf(b, sizeof(b), "%s/%s", root, to);
	must(rename(a, b) == 0);
}

/* An empty disk on which a child did that, and was killed. */
static struct power *
disk_after(void (*fn)(void))
{
	snprintf(root, sizeof(root), "%s/disk", t_tmpdir());
	snprintf(log_path, sizeof(log_path), "%s.log", root);
	must(mkdir(root, 0750) == 0);
	struct power *p = power_open(root, log_path);
	pid_t child = fork();
	if (child == 0) {
		power_record(root, log_path);
		fn();
		raise(SIGKILL);
	}
	must(child > 0 && waitpid(child, NULL, 0) == child);
	return p;
}

static void
some_of_all(void)
{
	char sub[400], deep[400], path[400];

	snprintf(sub, sizeof(sub), "%s/sub", root);
	snprintf(deep, sizeof(deep), "%s/sub/deep", root);
	snprintf(path, sizeof(path), "%s/sub/b", root);
	must(mkdir(sub, 0700) == 0 && mkdir(deep, 0755) == 0);
	put("a", "first", 5, 0, true);
	put("a", "FI", 2, 0, false);
	must(link(strcat(strcpy(deep, root), "/a"), path) == 0);
	put("c", "gone", 4, 0, false);
	must(unlink(strcat(strcpy(deep, root), "/c")) == 0);
	put("d.NEW", "new", 3, 0, false);
	move("d.NEW", "d");
	must(truncate(path, 5) == 0);
	int fd = open(root, O_TMPFILE | O_RDWR, 0600),
	    at = open(root, O_PATH | O_DIRECTORY);
	must(fd >= 0 && at >= 0 && write(fd, "bare", 4) == 4 &&
		linkat(fd, "", at, "e", AT_EMPTY_PATH) == 0);
	put("long", "x", 1, 3000, false);
}

TEST(a_kill_alone_loses_nothing)
{
	struct power_facts f;
	struct stat a, b;
	struct power *p = disk_after(some_of_all);

	power_cut(p, POWER_KEEP_ALL, t_rand, &f);
	CHECK(f.ops > 10 && f.syncs == 1 && f.lost_names + f.lost_writes == 0);
	CHECK_STR(get("a"), "FIrst");
	CHECK_STR(get("sub/b"), "FIrst");
	CHECK_STR(get("d"), "new");
	CHECK_STR(get("e"), "bare");
	CHECK(get("c") == NULL && get("d.NEW") == NULL);
	char x[400], y[400];
	snprintf(x, sizeof(x), "%s/a", root);
	snprintf(y, sizeof(y), "%s/sub/b", root);
	CHECK(stat(x, &a) == 0 && stat(y, &b) == 0 && a.st_ino == b.st_ino);
	CHECK_EQ(a.st_mode & 07777, 0640 & ~022);
	snprintf(x, sizeof(x), "%s/long", root);
	CHECK(stat(x, &a) == 0 && a.st_size == 3001);
	power_close(p);
}

TEST(what_was_not_synced_goes)
{
	struct power *p = disk_after(some_of_all);

	power_cut(p, POWER_DROP_ALL, t_rand, NULL);
	CHECK_STR(get("a"), "first");
	/* The sync of a took the folders' names with it, and nothing behind it. */
	CHECK(get("sub/b") == NULL && get("d") == NULL && get("long") == NULL);
	char x[400];
	snprintf(x, sizeof(x), "%s/sub/deep", root);
	CHECK(access(x, F_OK) == 0);
	power_close(p);
}

static void
overwritten(void)
{
	char text[4096];

	for (char c = 'a'; c <= 'e'; c++) {
		memset(text, c, sizeof(text));
		put("f", text, sizeof(text), 0, c == 'a');
	}
	put("new", text, 2000, 0, false);
	move("new", "f2");
}

TEST(each_unit_is_one_that_was_written)
{
	unsigned seen = 0, mixed = 0, empty = 0;

	for (int round = 0; round < 40; round++) {
		struct power *p = disk_after(overwritten);
		power_cut(p, POWER_ANY, t_rand, NULL);
		const char *text = get("f"), *named = get("f2");
		CHECK(text != NULL && strlen(text) == 4096);
		for (size_t at = 0; at < 4096; at += 512) {
			CHECK(text[at] >= 'a' && text[at] <= 'e');
			for (size_t i = 0; i < 512; i++)
				CHECK_EQ(text[at + i], text[at]);
			seen |= 1u << (text[at] - 'a');
			mixed += text[at] != text[0];
		}
		empty += named != NULL && strlen(named) < 2000;
		power_close(p);
		char cmd[700];
		snprintf(cmd, sizeof(cmd), "rm -rf %s %s", root, log_path);
		CHECK_EQ(system(cmd), 0);
	}
	CHECK_EQ(seen, 31);
	CHECK(mixed > 0);
	CHECK(empty > 0); /* renamed into place without a sync */
}

static void
goes_on(void)
{
	put("later", "more", 4, 0, true);
	put("a", "x", 1, 0, false);
}

TEST(a_disk_goes_on_after_a_cut)
{
	struct power *p = disk_after(some_of_all);

	power_cut(p, POWER_KEEP_ALL, t_rand, NULL);
	pid_t child = fork();
	if (child == 0) {
		power_record(root, log_path);
		goes_on();
		raise(SIGKILL);
	}
	must(child > 0 && waitpid(child, NULL, 0) == child);
	power_cut(p, POWER_DROP_ALL, t_rand, NULL);
	CHECK_STR(get("later"), "more");
	CHECK_STR(get("sub/b"), "FIrst");
	CHECK_STR(get("d"), "new");
	power_close(p);
}

T_MAIN
