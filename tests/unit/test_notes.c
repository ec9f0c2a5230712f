/* Notes: counted, kept over restarts and kill -9, shared syncs, torn and damaged files. */
#include "tests/lib/t.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/notes.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* In libc's place: a disk that fails one sync in so many. */
static _Atomic unsigned fail_one_in;
static _Atomic unsigned syncs;

int
fdatasync(int fd)
{
	if (fail_one_in != 0 && ++syncs % fail_one_in == 0) {
		errno = EIO;
		return -1;
	}
	return fsync(fd);
}

static struct notes *
open_notes(void)
{
	struct notes *n = NULL;

	if (notes_open(t_tmpdir(), &n) != 0)
		t_fail(__FILE__, __LINE__, "cannot open the notes");
	return n;
}

static const char *
file(void)
{
	static char path[400];

	snprintf(path, sizeof(path), "%s/notes", t_tmpdir());
	return path;
}

static off_t
size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? st.st_size : -1;
}

struct found {
	const char *path;
	int n;
};

static int
look(void *arg, const char *path)
{
	struct found *f = arg;

	f->n += strcmp(f->path, path) == 0;
	return 0;
}

static bool
noted(struct notes *n, const char *path)
{
	struct found f = { path, 0 };

	return notes_walk(n, look, &f) == 0 && f.n == 1;
}

TEST(a_note_says_whether_its_path_may_go)
{
	struct notes *n = open_notes();

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "box/made"), 0);
	CHECK_EQ(notes_add(n, "box/made/then removed"), 0);
	CHECK_EQ(notes_add_leaving(n, "box/made/then removed"), 0);
	CHECK_EQ(notes_copy(n, "box/made", "moved"), 0);
	for (int i = 0; i < 2; i++) {
		CHECK(!notes_is_leaving(n, "box/made"));
		CHECK(notes_is_leaving(n, "box/made/then removed"));
		CHECK(notes_is_leaving(n, "moved/then removed"));
		CHECK(!notes_is_leaving(n, "never noted"));
		notes_close(n);
		n = open_notes();
		CHECK(n != NULL);
	}
	/* made anew after that was journaled, it is there again */
	notes_settle(n, "box/made/then removed", UINT64_MAX);
	CHECK_EQ(notes_add(n, "box/made/then removed"), 0);
	CHECK(!notes_is_leaving(n, "box/made/then removed"));
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL && !notes_is_leaving(n, "box/made/then removed"));
	notes_clear(n, "box/made");
	notes_clear(n, "box/made/then removed");
	notes_clear(n, "moved/then removed");
	notes_close(n);
}

TEST(each_note_counts)
{
	struct notes *n = open_notes();
	static char longest[NOTES_MAX_PATH + 1];

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "user/a"), 0);
	CHECK_EQ(notes_add(n, "user/a"), 0);
	CHECK_EQ(notes_add(n, "odd %41\n\x7f\xff name"), 0);
	CHECK_EQ(notes_add(n, ""), 0);
	notes_clear(n, "user/a");
	notes_clear(n, "never noted");
	CHECK(noted(n, "user/a"));
	CHECK_EQ(notes_count(n), 3);
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL);
	CHECK_EQ(notes_count(n), 3);
	CHECK(noted(n, "user/a") && noted(n, "odd %41\n\x7f\xff name") && noted(n, ""));
	notes_clear(n, "user/a");
	CHECK(!noted(n, "user/a"));
	CHECK_EQ(notes_add(n, "other"), 0);
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL);
	CHECK(!noted(n, "user/a") && noted(n, "other"));
	memset(longest, '\n', NOTES_MAX_PATH);
	CHECK_EQ(notes_add(n, longest), ERR_LIMIT);
	longest[NOTES_MAX_PATH - 1] = '\0';
	CHECK_EQ(notes_add(n, longest), 0);
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL && noted(n, longest));
	notes_close(n);
}

TEST(a_torn_end_is_cut_off_at_any_byte)
{
	struct notes *n = open_notes();
	char bytes[300];
	off_t first;

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "first"), 0);
	first = size_of(file());
	CHECK_EQ(notes_add(n, "second"), 0);
	notes_close(n);
	int fd = open(file(), O_RDONLY);
	ssize_t len = read(fd, bytes, sizeof(bytes));
	close(fd);
	CHECK(len > first && len < (ssize_t)sizeof(bytes));
	for (ssize_t cut = first; cut < len; cut++) {
		fd = open(file(), O_WRONLY | O_TRUNC);
		CHECK_EQ(write(fd, bytes, (size_t)cut), cut);
		/* and what a power cut may leave behind it */
		if (cut % 2)
			CHECK_EQ(write(fd, "\0\0\0", 3), 3);
		close(fd);
		n = open_notes();
		CHECK(n != NULL && noted(n, "first") && !noted(n, "second"));
		CHECK_EQ(notes_add(n, "third"), 0);
		notes_close(n);
		n = open_notes();
		CHECK(n != NULL && noted(n, "first") && noted(n, "third"));
		notes_close(n);
	}
}

TEST(damage_in_the_middle_is_told_and_the_rest_kept)
{
	struct notes *n = open_notes();

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "one"), 0);
	CHECK_EQ(notes_add(n, "two"), 0);
	CHECK_EQ(notes_add(n, "three"), 0);
	notes_close(n);
	int fd = open(file(), O_WRONLY);
	CHECK_EQ(pwrite(fd, "x", 1, size_of(file()) / 2), 1);
	close(fd);
	t_expect_log("notes is damaged");
	n = open_notes();
	CHECK(n != NULL);
	CHECK_EQ(notes_count(n), 2);
	CHECK(noted(n, "one") && noted(n, "three"));
	/* the first note writes the file anew: the damage is gone */
	CHECK_EQ(notes_add(n, "four"), 0);
	notes_close(n);
	n = open_notes();
	CHECK_EQ(notes_count(n), 3);
	notes_close(n);
}

TEST(the_file_does_not_grow_for_ever)
{
	struct notes *n = open_notes();
	char path[64];
	off_t most = 0;

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "stays"), 0);
	for (int i = 0; i < 6000; i++) {
		snprintf(path, sizeof(path), "domain/e/example/user/u%d", i);
		CHECK_EQ(notes_add(n, path), 0);
		notes_clear(n, path);
		if (i % 100 == 0 && size_of(file()) > most)
			most = size_of(file());
	}
	CHECK(most < 300 * 1024 && most > 100 * 1024);
	CHECK_EQ(notes_count(n), 1);
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL && noted(n, "stays"));
	CHECK_EQ(notes_count(n), 1);
	notes_close(n);
}

/* Two batches looked at the path while the same note was held; another came before they were
 * journaled. */
TEST(what_is_noted_later_is_not_settled)
{
	struct notes *n = open_notes();

	CHECK(n != NULL);
	CHECK_EQ(notes_mark(n, "box"), 0);
	CHECK_EQ(notes_add(n, "box"), 0);
	CHECK_EQ(notes_add(n, "box"), 0);
	CHECK_EQ(notes_add(n, "other"), 0);
	uint64_t first = notes_mark(n, "box"), second = notes_mark(n, "box");
	CHECK_EQ(notes_add(n, "box"), 0);
	notes_settle(n, "box", first);
	notes_settle(n, "box", second);
	CHECK(noted(n, "box"));
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL && noted(n, "box"));
	uint64_t third = notes_mark(n, "box");
	CHECK(third != 0);
	notes_settle(n, "box", third);
	notes_settle(n, "box", third);
	CHECK(!noted(n, "box") && noted(n, "other"));
	notes_close(n);
}

struct worker {
	pthread_t t;
	struct notes *n;
	int id, failed;
};

static void *
work(void *arg)
{
	struct worker *w = arg;
	char path[64];

	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof(path), "shared/%d", i % 10);
		w->failed |= notes_add(w->n, path) != 0 || !noted(w->n, path);
		if (i % 3 == 0) {
			char own[64];
			snprintf(own, sizeof(own), "w%d/%d", w->id, i);
			w->failed |= notes_add(w->n, own) != 0;
		}
		notes_clear(w->n, path);
	}
	return NULL;
}

TEST(many_threads)
{
	struct notes *n = open_notes();
	struct worker w[8];

	CHECK(n != NULL);
	for (int i = 0; i < 8; i++) {
		w[i] = (struct worker){ .n = n, .id = i };
		CHECK_EQ(pthread_create(&w[i].t, NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(w[i].t, NULL);
		CHECK(!w[i].failed);
	}
	CHECK_EQ(notes_count(n), 800);
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL);
	CHECK_EQ(notes_count(n), 800);
	notes_close(n);
}

static char child_line[2048];

static void
on_child_log(enum log_level level, const char *line)
{
	(void)level;
	snprintf(child_line, sizeof(child_line), "%s", line);
}

static int
under_a_size_limit(void)
{
	struct rlimit small = { 4096, RLIM_INFINITY },
		      none = { RLIM_INFINITY, RLIM_INFINITY };
	struct notes *n;
	char path[64];
	int i, rc = 0;

	log_set_hook(on_child_log);
	signal(SIGXFSZ, SIG_IGN);
	if (notes_open(t_tmpdir(), &n) != 0 || setrlimit(RLIMIT_FSIZE, &small) != 0)
		return 1;
	for (i = 0; i < 1000 && rc == 0; i++) {
		snprintf(path, sizeof(path), "a path of some length %d", i);
		rc = notes_add(n, path);
	}
	if (rc != ERR_FULL || noted(n, path) ||
		strstr(child_line, "free space") == NULL)
		return 2;
	if (notes_add(n, "still full") != ERR_FULL)
		return 3;
	if (setrlimit(RLIMIT_FSIZE, &none) != 0 || notes_add(n, "again") != 0)
		return 4;
	notes_close(n);
	if (notes_open(t_tmpdir(), &n) != 0)
		return 5;
	return notes_count(n) == (size_t)i && noted(n, "again") &&
			       !noted(n, "still full") &&
			       noted(n, "a path of some length 0")
		       ? 0
		       : 6;
}

TEST(what_is_noted_below_a_folder_is_noted_below_its_new_name_too)
{
	struct notes *n = open_notes();

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "a"), 0);
	CHECK_EQ(notes_add(n, "a/x"), 0);
	CHECK_EQ(notes_add(n, "a/d/y"), 0);
	CHECK_EQ(notes_add(n, "ab/z"), 0);
	notes_close(n);
	/* also what an earlier life noted; and a file that is not closed has it */
	n = open_notes();
	CHECK(n != NULL);
	CHECK_EQ(notes_copy(n, "a", "b"), 0);
	struct notes *other = open_notes();
	CHECK(other != NULL);
	CHECK(noted(other, "b/x") && noted(other, "b/d/y") && noted(other, "a/x"));
	CHECK_EQ(notes_count(other), 6);
	notes_close(other);
	/* a note of its own: settling what was there before leaves it */
	uint64_t mark = notes_mark(n, "b/x");
	CHECK_EQ(notes_copy(n, "a", "b"), 0);
	notes_settle(n, "b/x", mark);
	CHECK(noted(n, "b/x"));
	CHECK_EQ(notes_copy(n, "none", "b"), 0);
	CHECK_EQ(notes_count(n), 6);
	notes_close(n);
}

TEST(a_full_disk_fails_the_note_alone)
{
	int status;

	t_tmpdir(); /* the child's as well */
	pid_t pid = fork();
	if (pid == 0)
		_exit(under_a_size_limit());
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
}

TEST(after_a_failed_sync_the_file_is_written_anew)
{
	struct notes *n = open_notes();
	struct stat before, after;

	CHECK(n != NULL);
	CHECK_EQ(notes_add(n, "one"), 0);
	CHECK_EQ(stat(file(), &before), 0);
	fail_one_in = 1;
	t_expect_log("look at the disk");
	CHECK_EQ(notes_add(n, "two"), ERR_IO);
	fail_one_in = 0;
	CHECK(noted(n, "one") && !noted(n, "two"));
	/* nobody knows what a failed sync left on disk: the old file may not be trusted */
	CHECK_EQ(notes_add(n, "three"), 0);
	CHECK_EQ(stat(file(), &after), 0);
	CHECK(before.st_ino != after.st_ino);
	notes_close(n);
	n = open_notes();
	CHECK(n != NULL);
	CHECK_EQ(notes_count(n), 2);
	CHECK(noted(n, "one") && noted(n, "three"));
	notes_close(n);
}

enum { THREADS = 8, ADDS = 200 };

struct adder {
	pthread_t t;
	struct notes *n;
	int id;
	uint8_t *ok;
};

static void *
add_many(void *arg)
{
	struct adder *a = arg;
	char path[64];

	for (int i = 0; i < ADDS; i++) {
		snprintf(path, sizeof(path), "w%d/%d", a->id, i);
		a->ok[i] = notes_add(a->n, path) == 0;
		/* some share a path, whose failure one may see and another must not hide */
		if (notes_add(a->n, "shared") == 0) {
			if (!noted(a->n, "shared"))
				a->ok[i] = 2;
			notes_clear(a->n, "shared");
		}
	}
	return NULL;
}

static void
no_log(enum log_level level, const char *line)
{
	(void)level, (void)line;
}

TEST(a_note_that_was_answered_is_there_whatever_failed_around_it)
{
	uint8_t *ok = mmap(NULL, THREADS * ADDS, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status, good = 0;
	char path[64];

	CHECK(ok != MAP_FAILED);
	t_tmpdir(); /* the child's as well */
	pid_t pid = fork();
	if (pid == 0) {
		struct adder a[THREADS];
		struct notes *n = open_notes();
		log_set_hook(no_log);
		fail_one_in = 7;
		for (int i = 0; i < THREADS; i++) {
			a[i] = (struct adder){ .n = n, .id = i, .ok = ok + i * ADDS };
			pthread_create(&a[i].t, NULL, add_many, &a[i]);
		}
		for (int i = 0; i < THREADS; i++)
			pthread_join(a[i].t, NULL);
		/* as a kill would: nothing that waits is written */
		_exit(n == NULL);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	struct notes *n = open_notes();
	CHECK(n != NULL);
	for (int i = 0; i < THREADS * ADDS; i++) {
		snprintf(path, sizeof(path), "w%d/%d", i / ADDS, i % ADDS);
		CHECK(ok[i] <= 1);
		CHECK(!ok[i] || noted(n, path));
		good += ok[i];
	}
	CHECK(good > THREADS * ADDS / 4 && good < THREADS * ADDS);
	notes_close(n);
	munmap(ok, THREADS * ADDS);
}

static void
writer(int fd, int round)
{
	struct notes *n;
	char path[64];

	if (notes_open(t_tmpdir(), &n) != 0)
		_exit(1);
	for (int i = 0;; i++) {
		snprintf(path, sizeof(path), "r%d/%d", round, i);
		if (notes_add(n, path) != 0)
			_exit(2);
		if (write(fd, &i, sizeof(i)) != sizeof(i))
			_exit(3);
		if (i >= 3) {
			snprintf(path, sizeof(path), "r%d/%d", round, i - 3);
			notes_clear(n, path);
		}
	}
}

TEST(kill_9_never_leaves_a_note_too_few)
{
	t_tmpdir(); /* the children's as well */
	for (int round = 0; round < 30; round++) {
		char path[64];
		int fds[2], last, i;
		CHECK_EQ(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			close(fds[0]);
			writer(fds[1], round);
		}
		close(fds[1]);
		CHECK_EQ(read(fds[0], &last, sizeof(last)), sizeof(last));
		usleep((useconds_t)(t_rand() % 4000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (read(fds[0], &i, sizeof(i)) == sizeof(i))
			last = i;
		close(fds[0]);
		struct notes *n = open_notes();
		CHECK(n != NULL);
		for (i = last; i >= 0 && i > last - 3; i--) {
			snprintf(path, sizeof(path), "r%d/%d", round, i);
			CHECK(noted(n, path));
		}
		/* and few too many: what one write may still have had to say */
		CHECK(notes_count(n) <= (size_t)(round + 1) * 6);
		notes_close(n);
	}
}

T_MAIN
