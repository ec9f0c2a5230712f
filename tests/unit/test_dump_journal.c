/*
 * A journal printed while it is written to, and after a clean stop; rows that
 * are damaged or of an unknown version are named; nothing in the folder changes by it.
 */
#include "fs/dump.h"
#include "meta/base/err.h"
#include "meta/batch.h"
#include "sync/journal.h"
#include "tests/lib/t.h"

#include <dirent.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct rig {
	struct store *s;
	struct journal *j;
	char path[4200];
};

static bool
rig_open(struct rig *r)
{
	static const struct journal_limits limits;

	snprintf(r->path, sizeof(r->path), "%s/journal.db", t_tmpdir());
	return store_open(t_tmpdir(), &r->s) == 0 &&
	       journal_open(r->s, &limits, &r->j) == 0 &&
	       journal_resume(r->j, 3, 0) == 0;
}

static void
rig_close(struct rig *r)
{
	journal_close(r->j);
	store_close(r->s);
}

static bool
append(struct rig *r, const char *dir, const void *bytes, size_t n)
{
	struct journal_entry e = { .dir = dir, .bytes = bytes, .n = n };
	uint64_t seq;

	return journal_append(r->j, &e, &seq) == 0;
}

/* A batch that unlinks something, with a name that needs care on a terminal. */
static bool
append_delete(struct rig *r, const char *row_dir)
{
	struct batch b;
	struct buf bytes = BUF_INIT;

	batch_init(&b);
	b.dir = b.uniqueid = "";
	struct change *c = batch_add(&b, CHANGE_DELETE);
	c->u.path.path = "user/od\nd \x1b\"x";
	bool done = batch_encode(&b, &bytes) == 0 &&
		    append(r, row_dir, bytes.data, bytes.len);
	batch_fini(&b);
	buf_fini(&bytes);
	return done;
}

static bool
append_purge(struct rig *r, const char *row_dir, int version)
{
	struct batch b;
	struct buf bytes = BUF_INIT;

	batch_init(&b);
	b.dir = "user/a";
	b.uniqueid = "id1";
	b.before = (struct sum){ 1, 2 };
	b.after = (struct sum){ 3, 4 };
	struct change *c = batch_add(&b, CHANGE_PURGE);
	c->u.purge.uid = 17;
	memset(c->u.purge.guid, 0xab, SHA1_LEN);
	bool done = batch_encode(&b, &bytes) == 0;
	if (done && version != 0)
		bytes.data[0] = (uint8_t)version;
	done = done && append(r, row_dir, bytes.data, bytes.len);
	batch_fini(&b);
	buf_fini(&bytes);
	return done;
}

/* To be freed; rc_out is what the dump said. */
static char *
dumped(const char *path, bool json, int *rc_out)
{
	static char *text;
	static size_t n;
	FILE *to = open_memstream(&text, &n);

	*rc_out = dump_is_journal(path) ? dump_journal(path, json, to) : 99;
	fclose(to);
	return text;
}

static unsigned
count(const char *text, const char *word)
{
	unsigned n = 0;

	for (; (text = strstr(text, word)) != NULL; text++)
		n++;
	return n;
}

/* What is in the folder, added up. The file "-shm" is memory that readers share with writers. */
static uint64_t
folder_now(void)
{
	DIR *d = opendir(t_tmpdir());
	uint64_t sum = 0;
	struct dirent *e;
	struct stat st;

	while (d != NULL && (e = readdir(d)) != NULL)
		if (e->d_type == DT_REG && fstatat(dirfd(d), e->d_name, &st, 0) == 0)
			sum += 1000003 + (uint64_t)st.st_size * 31 + st.st_ino +
			       (strstr(e->d_name, "-shm")
					       ? 0
					       : (uint64_t)st.st_mtim.tv_nsec);
	closedir(d);
	return sum;
}

static bool
sql_on(const char *path, const char *sql)
{
	sqlite3 *h = NULL;
	bool done = sqlite3_open(path, &h) == SQLITE_OK &&
		    sqlite3_exec(h, sql, NULL, NULL, NULL) == SQLITE_OK;

	sqlite3_close(h);
	return done;
}

TEST(rows_in_words)
{
	struct rig r;
	int rc;

	CHECK(rig_open(&r));
	CHECK(append_purge(&r, "user/a", 0) &&
		append_delete(&r, "/user/od\nd \x1b\"x"));
	/* while it is open for writing: what is only in the log is seen */
	char *text = dumped(r.path, false, &rc);
	CHECK_EQ(rc, 0);
	CHECK_EQ(count(text, "batch epoch=3 run="), 2);
	CHECK(strstr(text, " seq=1 time=") != NULL);
	CHECK(strstr(text, "dir=\"user/a\" uniqueid=\"id1\" "
			   "before=\"00000000000000010000000000000002\" "
			   "after=\"00000000000000030000000000000004\"\n  purge uid=17 "
			   "guid=") != NULL);
	CHECK(strstr(text, "path=\"user/od\\x0ad \\x1b\\\"x\"\n  delete "
			   "path=user/od\\x0ad \\x1b\\\"x\n") != NULL);
	free(text);
	text = dumped(r.path, true, &rc);
	CHECK_EQ(rc, 0);
	CHECK(strstr(text, "\"changes\":[\"purge uid=17 guid=") != NULL);
	CHECK(strstr(text, "\"changes\":[\"delete path=user/od\\u000ad "
			   "\\u001b\\\"x\"]}\n]\n") != NULL);
	free(text);
	CHECK(append_purge(&r, "user/a", 0));
	rig_close(&r);
}

TEST(damage_is_named)
{
	struct rig r;
	int rc;

	CHECK(rig_open(&r));
	CHECK(append_purge(&r, "user/a", 0));
	CHECK(append_purge(&r, "user/a", 77)); /* from the future */
	CHECK(append_purge(&r, "user/b", 0)); /* not what the table says */
	CHECK(append(&r, "user/c", "\x01nonsense", 9));
	CHECK(append_purge(&r, "/user/a", 0) && append_delete(&r, "user/a"));
	CHECK(append_delete(&r, "")); /* this one is as it should be */
	CHECK(append_purge(&r, "user/a", 0)); /* will have lost its end */
	CHECK(append_purge(&r, "user/a", 0));
	rig_close(&r);
	CHECK(sql_on(r.path, "UPDATE journal SET dir = 'user/aa' WHERE seq = 8"));
	char *text = dumped(r.path, false, &rc);
	CHECK(rc != 0);
	CHECK_EQ(count(text, "batch epoch="), 9);
	CHECK_EQ(count(text, "damage="), 6);
	char *future = strstr(text, "seq=2 "), *next = strstr(text, "seq=3 ");
	CHECK(future != NULL && next != NULL);
	*next = '\0';
	CHECK(strstr(future, err_text(ERR_VERSION)) != NULL);
	CHECK(strstr(future, "purge") == NULL); /* no guess */
	free(text);
}

TEST(nothing_changes_by_it)
{
	struct rig r;
	int rc;

	CHECK(rig_open(&r));
	CHECK(append_purge(&r, "user/a", 0));
	uint64_t was = folder_now();
	free(dumped(r.path, false, &rc));
	CHECK_EQ(rc, 0);
	CHECK_EQ(folder_now(), was);
	rig_close(&r);
	was = folder_now();
	char *text = dumped(r.path, false, &rc);
	CHECK_EQ(rc, 0);
	CHECK_EQ(count(text, "batch epoch="), 1);
	free(text);
	CHECK_EQ(folder_now(), was);
}

TEST(what_is_no_journal)
{
	struct rig r;
	char path[4300];
	int rc;

	CHECK(rig_open(&r));
	rig_close(&r);
	snprintf(path, sizeof(path), "%s/state.db", t_tmpdir());
	t_expect_log("no table journal");
	free(dumped(path, false, &rc));
	CHECK_EQ(rc, ERR_FOREIGN);
	CHECK(sql_on(r.path, "PRAGMA user_version = 9"));
	t_expect_log("has version 9");
	free(dumped(r.path, false, &rc));
	CHECK_EQ(rc, ERR_VERSION);
	snprintf(path, sizeof(path), "%s/o dd%%?#.db", t_tmpdir());
	CHECK(sql_on(path, "CREATE TABLE journal (x)"));
	t_expect_log("is not a file of this program");
	free(dumped(path, false, &rc));
	CHECK_EQ(rc, ERR_FOREIGN);
}

/* Pages that are gone end the walk, and it is said. */
TEST(a_torn_file)
{
	struct rig r;
	struct stat st;
	int rc;

	CHECK(rig_open(&r));
	for (int i = 0; i < 1000; i++)
		CHECK(append_purge(&r, "user/a", 0));
	rig_close(&r);
	CHECK(stat(r.path, &st) == 0 &&
		truncate(r.path, st.st_size / 8192 * 4096) == 0);
	t_expect_log("is damaged");
	char *text = dumped(r.path, false, &rc);
	CHECK_EQ(rc, ERR_STORE);
	CHECK(strstr(text, "unreadable damage=") != NULL);
	free(text);
}

T_MAIN
