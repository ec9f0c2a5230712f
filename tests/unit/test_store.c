/* The two files: values, mailboxes, tombstones; refusals, damage, a full disk, kill -9. */
#include "tests/lib/t.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/store.h"
#include "sync/store_sql.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct store *
open_store(void)
{
	struct store *s = NULL;

	if (store_open(t_tmpdir(), &s) != 0)
		t_fail(__FILE__, __LINE__, "cannot open the store");
	return s;
}

static int
put(struct store *s, const char *dir, const char *id, uint64_t seq, const char *state)
{
	struct store_mbox m = { dir, id, seq, state, strlen(state) };

	return store_mbox_put(s, &m);
}

static int
join_mbox(void *arg, const struct store_mbox *m)
{
	buf_printf(arg, "%s=%s:%d:%.*s ", m->dir, m->uniqueid, (int)m->seq, (int)m->n,
		(const char *)m->state);
	return 0;
}

static const char *
path_of(const char *name)
{
	static char path[400];

	snprintf(path, sizeof(path), "%s/%s", t_tmpdir(), name);
	return path;
}

/* Another program's hand in one of the files. */
static int
by_hand(const char *name, const char *sql)
{
	sqlite3 *h;
	int rc = sqlite3_open(path_of(name), &h);

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(h, sql, NULL, NULL, NULL);
	sqlite3_close(h);
	return rc;
}

TEST(values)
{
	struct store *s = open_store();
	struct buf b = BUF_INIT;
	uint64_t v = 7;

	CHECK(s != NULL);
	CHECK_EQ(store_get_u64(s, "n", &v), ERR_NOTFOUND);
	CHECK_EQ(v, 7);
	CHECK_EQ(store_put_u64(s, "n", UINT64_MAX - 1), 0);
	CHECK_EQ(store_put_blob(s, "t", "one", 3), 0);
	CHECK_EQ(store_put_blob(s, "t", "", 0), 0);
	CHECK_EQ(store_put_blob(s, "t", "two", 3), 0);
	CHECK_EQ(store_put_blob(s, "b", "\0x\0", 3), 0);
	store_close(s);
	s = open_store();
	CHECK(s != NULL);
	CHECK_EQ(store_get_u64(s, "n", &v), 0);
	CHECK(v == UINT64_MAX - 1);
	CHECK_EQ(store_get_blob(s, "t", &b), 0);
	CHECK_STR(buf_str(&b), "two");
	CHECK_EQ(store_get_blob(s, "b", &b), 0);
	CHECK_EQ(b.len, 3);
	CHECK_MEM(b.data, "\0x\0", 3);
	CHECK_EQ(store_del(s, "b"), 0);
	CHECK_EQ(store_get_blob(s, "b", &b), ERR_NOTFOUND);
	buf_fini(&b);
	store_close(s);
}

TEST(mailboxes_and_tombstones)
{
	struct store *s = open_store();
	struct buf b = BUF_INIT;
	uint64_t seq;

	CHECK(s != NULL);
	CHECK_EQ(put(s, "user/a", "i1", 5, "s1"), 0);
	CHECK_EQ(put(s, "user/a/x", "i2", 6, "s2"), 0);
	CHECK_EQ(put(s, "user/ab", "i3", 7, "s3"), 0);
	CHECK_EQ(put(s, "user/b", "i1", 8, "s4"), 0);
	CHECK_EQ(put(s, "user/a", "i1", 9, "s5"), 0);
	CHECK_EQ(store_mbox_count(s), 4);
	CHECK_EQ(store_mbox_walk(s, "", 1, join_mbox, &b), 0);
	CHECK_STR(buf_str(&b), "user/a=i1:9:s5 ");
	buf_clear(&b);
	CHECK_EQ(store_mbox_walk(s, "user/a", 2, join_mbox, &b), 0);
	CHECK_STR(buf_str(&b), "user/a/x=i2:6:s2 user/ab=i3:7:s3 ");

	CHECK_EQ(store_mbox_drop(s, "user/b", 10), 0);
	CHECK_EQ(store_mbox_drop(s, "user/b", 11), ERR_NOTFOUND);
	CHECK_EQ(store_tomb_get(s, "user/b", "i1", &seq), 0);
	CHECK_EQ(seq, 10);
	CHECK_EQ(store_tomb_get(s, "user/b", "i2", &seq), ERR_NOTFOUND);
	/* another mailbox in its place leaves the tombstone, the same one ends it */
	CHECK_EQ(put(s, "user/b", "i9", 12, "s"), 0);
	CHECK_EQ(store_tomb_get(s, "user/b", "i1", NULL), 0);
	CHECK_EQ(put(s, "user/b", "i1", 13, "s"), 0);
	CHECK_EQ(store_tomb_get(s, "user/b", "i1", NULL), ERR_NOTFOUND);
	CHECK_EQ(store_mbox_drop(s, "user/b", 14), 0);
	CHECK_EQ(store_tomb_trim(s, 13), 0);
	CHECK_EQ(store_tomb_get(s, "user/b", "i1", NULL), 0);
	CHECK_EQ(store_tomb_trim(s, 14), 0);
	CHECK_EQ(store_tomb_get(s, "user/b", "i1", NULL), ERR_NOTFOUND);
	buf_fini(&b);
	store_close(s);
}

static int
has_long_names(void *arg, const struct store_mbox *m)
{
	(void)arg;
	return strlen(m->dir) == STORE_MAX_DIR - 1 &&
			       strlen(m->uniqueid) == STORE_MAX_ID - 1
		       ? 0
		       : ERR_MANGLED;
}

TEST(limits)
{
	static char dir[STORE_MAX_DIR + 1], id[STORE_MAX_ID + 1];
	struct store *s = open_store();

	CHECK(s != NULL);
	memset(dir, 'd', STORE_MAX_DIR);
	memset(id, 'i', STORE_MAX_ID);
	CHECK_EQ(put(s, dir, "i", 1, "s"), ERR_LIMIT);
	CHECK_EQ(put(s, "d", id, 1, "s"), ERR_LIMIT);
	dir[STORE_MAX_DIR - 1] = '\0';
	id[STORE_MAX_ID - 1] = '\0';
	CHECK_EQ(put(s, dir, id, 1, "s"), 0);
	CHECK_EQ(store_mbox_count(s), 1);
	CHECK_EQ(store_mbox_walk(s, "", 0, has_long_names, NULL), 0);
	store_close(s);
}

TEST(clean_mark)
{
	struct store *s = open_store();

	CHECK(s != NULL);
	CHECK(!store_was_clean(s));
	CHECK_EQ(store_set_clean(s, true), 0);
	store_close(s);
	s = open_store();
	CHECK(s != NULL && store_was_clean(s));
	CHECK_EQ(store_set_clean(s, false), 0);
	CHECK_EQ(store_set_clean(s, true), 0);
	store_close(s);
	/* a journal that has moved on since, as after a copy was put back */
	CHECK_EQ(by_hand("journal.db",
			 "INSERT INTO journal VALUES (7,1,1,1,1,1,1,'d',x'00')"),
		SQLITE_OK);
	s = open_store();
	CHECK(s != NULL && !store_was_clean(s));
	store_close(s);
}

TEST(a_missing_journal_is_unclean_and_a_missing_state_refused)
{
	struct store *s = open_store();

	CHECK(s != NULL);
	CHECK_EQ(store_set_clean(s, true), 0);
	store_close(s);
	CHECK_EQ(unlink(path_of("journal.db")), 0);
	t_expect_log("journal.db");
	s = open_store();
	CHECK(s != NULL && !store_was_clean(s));
	CHECK_EQ(store_set_clean(s, true), 0);
	store_close(s);
	s = open_store();
	CHECK(s != NULL && store_was_clean(s));
	store_close(s);
	CHECK_EQ(unlink(path_of("state.db")), 0);
	t_expect_log("no state.db");
	CHECK_EQ(store_open(t_tmpdir(), &s), ERR_STORE);
	CHECK(s == NULL);
	/* and nothing was made in its place */
	CHECK(access(path_of("state.db"), F_OK) != 0);
}

TEST(unknown_versions_and_foreign_files_are_refused)
{
	struct store *s = open_store();

	CHECK(s != NULL);
	store_close(s);
	CHECK_EQ(by_hand("journal.db", "PRAGMA user_version = 2"), SQLITE_OK);
	t_expect_log("has version 2");
	CHECK_EQ(store_open(t_tmpdir(), &s), ERR_VERSION);
	CHECK_EQ(by_hand("journal.db", "PRAGMA user_version = 1"), SQLITE_OK);
	CHECK_EQ(by_hand("state.db", "PRAGMA application_id = 1"), SQLITE_OK);
	t_expect_log("not a file of this program");
	CHECK_EQ(store_open(t_tmpdir(), &s), ERR_FOREIGN);
}

TEST(damaged_files_say_what_to_do)
{
	struct store *s = open_store();
	uint8_t junk[4096];
	int fd;

	CHECK(s != NULL);
	for (int i = 0; i < 200; i++) {
		char dir[40];
		snprintf(dir, sizeof(dir), "user/%d", i);
		CHECK_EQ(put(s, dir, "id", 1, "some state, long enough to fill pages"),
			0);
	}
	store_close(s);
	memset(junk, 0xee, sizeof(junk));
	fd = open(path_of("journal.db"), O_RDWR);
	CHECK(fd >= 0);
	for (int page = 2; page < 12; page++)
		CHECK_EQ(pwrite(fd, junk, sizeof(junk), page * 4096), sizeof(junk));
	close(fd);
	t_expect_log("move journal.db");
	s = NULL;
	int rc = store_open(t_tmpdir(), &s);
	if (rc == 0) {
		struct buf b = BUF_INIT;
		rc = store_mbox_walk(s, "", 0, join_mbox, &b);
		buf_fini(&b);
	}
	CHECK_EQ(rc, ERR_STORE);
	store_close(s);

	fd = open(path_of("state.db"), O_RDWR);
	CHECK(fd >= 0);
	for (int page = 1; page < 6; page++)
		CHECK_EQ(pwrite(fd, junk, sizeof(junk), page * 4096), sizeof(junk));
	close(fd);
	t_expect_log("state.db is damaged");
	CHECK_EQ(store_open(t_tmpdir(), &s), ERR_STORE);
}

TEST(a_folder_that_is_not_there)
{
	struct store *s;

	t_expect_log("cannot open");
	CHECK_EQ(store_open(path_of("none"), &s), ERR_NOTFOUND);
}

/* Log lines of a child: its exit code says whether the right one came. */
static char child_line[2048];

static void
on_child_log(enum log_level level, const char *line)
{
	if (level <= LOG_LEVEL_WARN)
		snprintf(child_line, sizeof(child_line), "%s", line);
}

TEST(one_process_at_a_time)
{
	struct store *s = open_store(), *other;
	int status;

	CHECK(s != NULL);
	pid_t pid = fork();
	if (pid == 0) {
		log_set_hook(on_child_log);
		int rc = store_open(t_tmpdir(), &other);
		_exit(rc == ERR_BUSY && strstr(child_line, "in use by another") ? 0
										: 1);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	/* the lock does not live on in a child that was forked while the store was open */
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	store_close(s);
	pid_t second = fork();
	if (second == 0)
		_exit(store_open(t_tmpdir(), &other) == 0 ? 0 : 1);
	CHECK_EQ(waitpid(second, &status, 0), second);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	CHECK_EQ(status, 0);
}

/* In a child with a mount namespace of its own, so that no mount is left whatever happens. */
static int
on_small_disk(const char *options, int (*fn)(const char *folder))
{
	char folder[300];
	int status = -1;

	snprintf(folder, sizeof(folder), "%s/small", t_tmpdir());
	mkdir(folder, 0700);
	pid_t pid = fork();
	if (pid == 0) {
		log_set_hook(on_child_log);
		if (unshare(CLONE_NEWNS) != 0 ||
			mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
			mount("tmpfs", folder, "tmpfs", 0, options) != 0)
			_exit(77);
		_exit(fn(folder));
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int
fill_and_free(const char *folder)
{
	char ballast[400], dir[64], state[2000];
	struct store *s;
	int fd, rc = 0, n = 0;

	snprintf(ballast, sizeof(ballast), "%s/ballast", folder);
	if (store_open(folder, &s) != 0)
		return 1;
	fd = open(ballast, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || posix_fallocate(fd, 0, 2 << 20) != 0)
		return 2;
	memset(state, 's', sizeof(state) - 1);
	state[sizeof(state) - 1] = '\0';
	while (rc == 0 && n < 100000) {
		snprintf(dir, sizeof(dir), "user/%d", n);
		rc = put(s, dir, "id", 1, state);
		n += rc == 0;
	}
	if (rc != ERR_FULL || n < 100 || strstr(child_line, "free some") == NULL)
		return 3;
	if (store_mbox_count(s) != (uint64_t)n)
		return 4;
	/* room again: it goes on, and what was answered is there */
	if (unlink(ballast) != 0 || close(fd) != 0)
		return 5;
	if (put(s, "user/more", "id", 1, state) != 0 || store_put_u64(s, "k", 1) != 0)
		return 6;
	store_close(s);
	if (store_open(folder, &s) != 0 || store_mbox_count(s) != (uint64_t)n + 1)
		return 7;
	store_close(s);
	return 0;
}

TEST(a_full_disk_is_said_and_goes_by)
{
	int rc = on_small_disk("size=6m", fill_and_free);

	if (rc == 77) {
		printf("# SKIP needs to mount a small tmpfs\n");
		return;
	}
	CHECK_EQ(rc, 0);
}

static int
read_only(const char *folder)
{
	struct store *s;

	if (store_open(folder, &s) != 0)
		return 1;
	store_close(s);
	if (mount(NULL, folder, NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0)
		return 77;
	return store_open(folder, &s) == ERR_STORE && strstr(child_line, "writable")
		       ? 0
		       : 2;
}

TEST(a_read_only_state_folder_is_refused)
{
	int rc = on_small_disk("size=6m", read_only);

	if (rc == 77) {
		printf("# SKIP needs to mount a small tmpfs\n");
		return;
	}
	CHECK_EQ(rc, 0);
}

static void *
use(void *arg)
{
	uint64_t v;

	store_get_u64(arg, "k", &v);
	return NULL;
}

static void *
adopt_and_use(void *arg)
{
	store_adopt(arg);
	return use(arg);
}

TEST(another_thread_aborts_unless_it_adopts)
{
	int status;
	pthread_t t;

	t_tmpdir(); /* the child's as well */
	pid_t pid = fork();
	if (pid == 0) {
		struct store *s = open_store();
		log_set_hook(on_child_log);
		if (s == NULL)
			_exit(9);
		pthread_create(&t, NULL, use, s);
		pthread_join(t, NULL);
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	struct store *s = open_store();
	CHECK(s != NULL);
	CHECK_EQ(pthread_create(&t, NULL, adopt_and_use, s), 0);
	pthread_join(t, NULL);
	store_adopt(s);
	store_close(s);
}

/* 1 is NORMAL, 2 FULL: inbox, epochs, runs, roles and positions are in state.db. */
TEST(each_file_is_synced_as_it_must_be)
{
	static const char *const sql[] = { "PRAGMA synchronous",
		"PRAGMA journal_mode" };
	struct store_q q[2];
	struct store *s;

	CHECK_EQ(store_open(t_tmpdir(), &s), 0);
	for (int db = 0; db < STORE_DBS; db++) {
		CHECK_EQ(store_sql_prepare(store_sql_of(s, db), sql, 2, q), 0);
		CHECK(store_sql_first(&q[0], "") > 0);
		CHECK_EQ(store_sql_u64(&q[0], 0), db == STORE_DB_STATE ? 2 : 1);
		store_sql_reset(&q[0]);
		CHECK(store_sql_first(&q[1], "") > 0);
		CHECK_STR(store_sql_text(&q[1], 0), "wal");
		store_sql_reset(&q[1]);
		store_sql_drop(q, 2);
	}
	store_close(s);
}

T_MAIN
