#include "fs/client.h"
#include "fs/unmount.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static struct mount_place place;

TEST(mountinfo_lines)
{
	CHECK(unmount_parse("42 27 0:39 / /mnt/a\\040b rw,nosuid shared:1 master:2 - "
			    "fuse.twinspool /etc/a.conf rw,user_id=0\n",
		&place));
	CHECK_EQ(place.id, 42);
	CHECK_EQ(place.minor, 39);
	CHECK_STR(place.path, "/mnt/a b");
	CHECK_STR(place.source, "/etc/a.conf");
	/* another type, one that only begins alike, a bind of a folder inside, a torn line */
	CHECK(!unmount_parse("42 27 0:39 / /m rw - fuse.sshfs /x rw\n", &place));
	CHECK(!unmount_parse("42 27 0:39 / /m rw - fuse.twinspoolx /x rw\n", &place));
	CHECK(!unmount_parse("42 27 0:39 /in /m rw - fuse.twinspool /x rw\n", &place));
	CHECK(!unmount_parse("42 27 0:39 / /m rw\n", &place));
	CHECK(!unmount_parse("", &place));
	CHECK_EQ(unmount_find("/proc", &place), ERR_NOTFOUND);
}

/* A child that holds the folder in one way until the pipe is closed. */
static pid_t
holder(const char *dir, int how, int hold_fd[2])
{
	char path[600];
	pid_t pid;
	int ready[2];

	snprintf(path, sizeof(path), "%s/file", dir);
	if (pipe(hold_fd) < 0 || pipe(ready) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		char c = 0;
		close(hold_fd[1]);
		bool ok = how == 0 ? chdir(dir) == 0
				   : open(path, O_RDWR | O_CREAT, 0600) >= 0;
		if (ok && write(ready[1], "x", 1) == 1)
			while (read(hold_fd[0], &c, 1) > 0)
				continue;
		_exit(0);
	}
	char c;
	ssize_t n = read(ready[0], &c, 1);
	close(ready[0]);
	close(ready[1]);
	return n == 1 ? pid : -1;
}

TEST(holders)
{
	static const char *const what[] = { "working folder", "descriptor" };
	char dir[300], expect[64];

	for (int how = 0; how < 2; how++) {
		struct buf out = BUF_INIT;
		int fd[2];
		if (realpath(t_tmpdir(), dir) == NULL)
			t_fail(__FILE__, __LINE__, "no folder");
		memset(&place, 0, sizeof(place));
		place.id = UINT64_MAX;
		snprintf(place.path, sizeof(place.path), "%s", dir);
		CHECK_EQ(unmount_holders(&place, &out), 0);
		CHECK_EQ(out.len, 0);
		pid_t pid = holder(dir, how, fd);
		CHECK(pid > 0);
		snprintf(expect, sizeof(expect), "%d test_unmount: %s", (int)pid,
			what[how]);
		unsigned n = unmount_holders(&place, &out);
		bool named = strncmp(buf_str(&out), expect, strlen(expect)) == 0;
		close(fd[1]);
		close(fd[0]);
		waitpid(pid, NULL, 0);
		buf_fini(&out);
		CHECK_EQ(n, 1);
		CHECK(named);
	}
}

/* By device, where the path says nothing. */
TEST(holder_by_mapping)
{
	struct buf out = BUF_INIT;
	struct stat st;
	char mine[64];

	memset(&place, 0, sizeof(place));
	place.id = UINT64_MAX;
	snprintf(place.path, sizeof(place.path), "/no/such/place");
	CHECK_EQ(stat("/proc/self/exe", &st), 0);
	place.major = major(st.st_dev);
	place.minor = minor(st.st_dev);
	unmount_holders(&place, &out);
	bool listed = out.len > 0 && strstr(buf_str(&out), "mapped file") != NULL;
	snprintf(mine, sizeof(mine), "%d ", (int)getpid());
	buf_fini(&out);
	CHECK(listed);
}

TEST(arguments_that_mean_a_slot)
{
	struct client *c = calloc(1, sizeof(*c));
	struct buf why = BUF_INIT;
	char path[512];

	CHECK(c != NULL);
	CHECK_EQ(client_find(t_tmpdir(), c, &why), ERR_NOTFOUND);
	CHECK(strstr(buf_str(&why), "no twinspool is mounted here") != NULL);
	buf_clear(&why);
	CHECK_EQ(client_find("/no/where/at/all", c, &why), ERR_NOTFOUND);
	buf_clear(&why);
	CHECK_EQ(client_find("", c, &why), ERR_NOTFOUND);
	buf_clear(&why);
	snprintf(path, sizeof(path), "%s/a.conf", t_tmpdir());
	FILE *f = fopen(path, "w");
	CHECK(f != NULL);
	fprintf(f, "mountpoint: /m\nspool: /s\nstate: /t\nname: a\n");
	fclose(f);
	CHECK_EQ(client_find(path, c, &why), 0);
	CHECK(!c->mounted);
	CHECK_STR(c->conf.path, path);
	CHECK_EQ(client_ask(c, "status", 1000, 0, &why), ERR_NOTFOUND);
	buf_fini(&why);
	free(c);
	CHECK_EQ(client_time("1"), 1000);
	CHECK_EQ(client_time("20ms"), 20);
	CHECK_EQ(client_time("x"), -1);
	CHECK_EQ(client_time("365d"), -1);
}

T_MAIN
