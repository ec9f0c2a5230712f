/* test_spool.c - the backing tree: nothing leads outside, files appear whole, bodies are proven. */
#include "meta/spool.h"

#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct spool *
opened(void)
{
	struct spool *sp = NULL;

	if (spool_open(t_tmpdir(), &sp) != 0)
		abort();
	return sp;
}

static bool
content_is(struct spool *sp, const char *dir, const char *name, const char *text)
{
	struct buf b = BUF_INIT;
	bool same = spool_read(sp, dir, name, 1000, &b, NULL) == 0 &&
		    b.len == strlen(text) && memcmp(b.data, text, b.len) == 0;

	buf_fini(&b);
	return same;
}

TEST(paths_that_lead_outside_are_refused)
{
	struct spool *sp = opened();
	char path[300];
	struct stat st;
	int fd;

	CHECK_EQ(spool_file(sp, "..", "x", O_RDONLY, 0, &fd), ERR_USAGE);
	CHECK_EQ(spool_file(sp, "a/../..", "x", O_RDONLY, 0, &fd), ERR_USAGE);
	CHECK_EQ(spool_file(sp, "/etc", "passwd", O_RDONLY, 0, &fd), ERR_USAGE);
	CHECK_EQ(spool_file(sp, "a", "..", O_RDONLY, 0, &fd), ERR_USAGE);
	CHECK_EQ(spool_file(sp, "", "a/b", O_RDONLY, 0, &fd), ERR_USAGE);
	CHECK_EQ(spool_stat(sp, "a..b", NULL, &st), ERR_NOTFOUND);
	snprintf(path, sizeof(path), "%s/link", t_tmpdir());
	CHECK_EQ(symlink("/etc", path), 0);
	CHECK(spool_file(sp, "link", "passwd", O_RDONLY, 0, &fd) != 0);
	CHECK(spool_replace(sp, "link", "x", "y", 1, 0600, 0, 0) != 0);
	CHECK(spool_mkdirs(sp, "link/deeper", 0700, 0, 0) != 0);
	CHECK_EQ(access("/etc/deeper", F_OK), -1);
	spool_close(sp);
}

TEST(replace_has_owner_mode_and_whole_content)
{
	struct spool *sp = opened();
	struct stat st;

	CHECK_EQ(spool_mkdirs(sp, "a/b//c/", 0751, 12, 34), 0);
	CHECK_EQ(spool_mkdirs(sp, "a/b/c", 0700, 1, 1), 0);
	CHECK_EQ(spool_stat(sp, "a/b/c", NULL, &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0751);
	CHECK_EQ(st.st_uid, 12);
	CHECK_EQ(st.st_gid, 34);
	CHECK_EQ(spool_replace(sp, "a/b", "f", "one", 3, 0640, 5, 6), 0);
	CHECK(content_is(sp, "a/b", "f", "one"));
	CHECK_EQ(spool_replace(sp, "a/b", "f", "twofold", 7, 0604, 5, 7), 0);
	CHECK(content_is(sp, "a/b", "f", "twofold"));
	CHECK_EQ(spool_stat(sp, "a/b", "f", &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0604);
	CHECK_EQ(st.st_gid, 7);
	struct buf b = BUF_INIT;
	CHECK_EQ(spool_read(sp, "a/b", "f", 3, &b, NULL), ERR_LIMIT);
	CHECK_EQ(spool_read(sp, "a/b", "g", 3, &b, NULL), ERR_NOTFOUND);
	CHECK(spool_read(sp, "a", "b", 100, &b, NULL) != 0);
	buf_fini(&b);
	spool_close(sp);
}

static int
stage(struct spool *sp, const char *text, const uint8_t *guid, bool sync)
{
	struct spool_stage *st;
	int rc = spool_stage_open(sp, guid, strlen(text), &st);

	if (rc == 0)
		rc = spool_stage_write(st, text, 3);
	if (rc == 0)
		rc = spool_stage_write(st, text + 3, strlen(text) - 3);
	return rc != 0 ? rc : spool_stage_done(st, sync);
}

static bool
dressed(struct spool *sp, const char *dir, const char *name)
{
	struct stat st;

	return spool_stat(sp, dir, name, &st) == 0 && st.st_uid == 7 &&
	       st.st_gid == 8 && (st.st_mode & 07777) == 0640 &&
	       st.st_mtim.tv_sec == 1234567890 && st.st_mtim.tv_nsec == 123456789;
}

TEST(bodies_are_staged_only_when_they_are_right)
{
	struct spool *sp = opened();
	uint8_t guid[SHA1_LEN], wrong[SHA1_LEN] = { 1 };
	struct spool_stage *st;

	hash_sha1("message", 7, guid);
	CHECK_EQ(stage(sp, "message", wrong, false), ERR_BODY);
	CHECK(!spool_staged(sp, wrong));
	CHECK_EQ(stage(sp, "message", guid, true), 0);
	CHECK(spool_staged(sp, guid));

	CHECK_EQ(spool_stage_open(sp, guid, 3, &st), 0);
	CHECK_EQ(spool_stage_write(st, "mess", 4), ERR_BODY);
	spool_stage_abort(st);
	CHECK_EQ(spool_stage_open(sp, guid, 7, &st), 0);
	CHECK_EQ(spool_stage_write(st, "messag", 6), 0);
	CHECK_EQ(spool_stage_done(st, false), ERR_BODY);

	CHECK(spool_staged(sp, guid));
	CHECK_EQ(spool_mkdirs(sp, "m", 0700, 0, 0), 0);
	struct spool_place to = { -1, "m", "1.", 7, 8, 0640, 1234567890123456789u,
		false };
	CHECK_EQ(spool_stage_take(sp, guid, &to), 0);
	CHECK(content_is(sp, "m", "1.", "message"));
	CHECK(dressed(sp, "m", "1."));
	CHECK(!spool_staged(sp, guid));
	to.name = "2.";
	CHECK_EQ(spool_stage_take(sp, guid, &to), ERR_NOTFOUND);
	CHECK_EQ(stage(sp, "message", guid, true), 0);
	to.name = "1.";
	CHECK_EQ(spool_stage_take(sp, guid, &to), ERR_EXISTS);
	CHECK(spool_staged(sp, guid));
	spool_stage_drop(sp, guid);
	CHECK(!spool_staged(sp, guid));
	spool_close(sp);
}

/* Stopped after any number of steps: the whole file with its attributes, or none, and nothing
 * beside it. */
TEST(a_file_is_made_whole_or_not)
{
	struct spool_place to = { -1, "made", "1.", 7, 8, 0640, 1234567890123456789u,
		false };
	struct spool *sp = opened();
	struct stat st;
	int steps = 0, rc;

	CHECK_EQ(spool_mkdirs(sp, "made", 0700, 0, 0), 0);
	do {
		spool_set_limit(sp, steps++);
		rc = spool_make(sp, &to, "message", 7);
		spool_set_limit(sp, -1);
		if (rc != 0)
			CHECK_EQ(spool_stat(sp, "made", "1.", &st), ERR_NOTFOUND);
	} while (rc != 0 && steps < 20);
	CHECK_EQ(rc, 0);
	CHECK(steps > 2);
	CHECK(content_is(sp, "made", "1.", "message"));
	CHECK(dressed(sp, "made", "1."));
	CHECK_EQ(spool_stat(sp, ".twinspool/staging", NULL, &st), 0);

	CHECK_EQ(spool_make(sp, &to, "other", 5), ERR_EXISTS);
	CHECK(content_is(sp, "made", "1.", "message"));
	to.over = true;
	for (steps = 0, rc = ERR_IO; rc != 0 && steps < 20; steps++) {
		CHECK(content_is(sp, "made", "1.", "message"));
		spool_set_limit(sp, steps);
		rc = spool_make(sp, &to, "other", 5);
		spool_set_limit(sp, -1);
	}
	CHECK_EQ(rc, 0);
	CHECK(content_is(sp, "made", "1.", "other"));
	CHECK(dressed(sp, "made", "1."));
	spool_close(sp);
}

static int kept_seen;

static void
count_kept(void *arg, const uint8_t guid[SHA1_LEN])
{
	kept_seen += memcmp(arg, guid, SHA1_LEN) == 0;
}

TEST(kept_bodies_outlive_their_mailbox)
{
	struct spool *sp = opened();
	uint8_t guid[SHA1_LEN];
	int fd;

	hash_sha1("message", 7, guid);
	CHECK_EQ(spool_kept_open(sp, guid, &fd), ERR_NOTFOUND);
	CHECK_EQ(spool_mkdirs(sp, "m", 0700, 0, 0), 0);
	CHECK_EQ(spool_replace(sp, "m", "1.", "message", 7, 0600, 0, 0), 0);
	CHECK_EQ(spool_keep(sp, guid, "m", "1."), 0);
	CHECK_EQ(spool_unlink(sp, "m", "1."), 0);
	CHECK_EQ(spool_keep(sp, guid, "m", "1."), 0);
	CHECK_EQ(spool_kept_open(sp, guid, &fd), 0);
	close(fd);
	kept_seen = 0;
	CHECK_EQ(spool_kept_walk(sp, count_kept, guid), 0);
	CHECK_EQ(kept_seen, 1);
	CHECK_EQ(spool_kept_link(sp, guid, "m", "9."), 0);
	CHECK(content_is(sp, "m", "9.", "message"));
	spool_kept_drop(sp, guid);
	CHECK_EQ(spool_kept_open(sp, guid, &fd), ERR_NOTFOUND);
	spool_close(sp);
}

TEST(temporary_files_are_swept_by_the_owner_alone)
{
	struct spool *sp = opened();
	uint8_t guid[SHA1_LEN];
	char name[SPOOL_TEMP_NAME];
	struct stat st;
	int fd;

	hash_sha1("message", 7, guid);
	CHECK_EQ(stage(sp, "message", guid, false), 0);
	CHECK_EQ(spool_temp(sp, name, &fd), 0);
	close(fd);
	CHECK_EQ(spool_stat(sp, ".twinspool/staging", name, &st), 0);
	spool_close(sp);
	/* whoever only looks may do so beside the owner, who is writing it just now */
	sp = opened();
	CHECK_EQ(spool_stat(sp, ".twinspool/staging", name, &st), 0);
	CHECK(spool_staged(sp, guid));
	spool_sweep(sp);
	CHECK_EQ(spool_stat(sp, ".twinspool/staging", name, &st), ERR_NOTFOUND);
	CHECK(spool_staged(sp, guid));
	spool_close(sp);
}

TEST(attributes_and_special_files)
{
	struct spool *sp = opened();
	struct stat st;

	CHECK_EQ(spool_replace(sp, "", "f", "x", 1, 0600, 0, 0), 0);
	CHECK_EQ(spool_attrs(sp, "", "f", 7, SPOOL_KEEP, 04711, 1234567890123456789u),
		0);
	CHECK_EQ(spool_stat(sp, "", "f", &st), 0);
	CHECK_EQ(st.st_uid, 7);
	CHECK_EQ(st.st_gid, 0);
	CHECK_EQ(st.st_mode & 07777, 04711);
	CHECK_EQ(st.st_mtim.tv_sec, 1234567890);
	CHECK_EQ(st.st_mtim.tv_nsec, 123456789);
	spool_changes(sp);
	CHECK_EQ(spool_attrs(sp, "", "f", 7, 0, 04711, SPOOL_KEEP), 0);
	CHECK_EQ(spool_changes(sp), 0);
	CHECK_EQ(spool_symlink(sp, "../away", "", "s"), 0);
	CHECK_EQ(spool_symlink(sp, "away", "", "f"), 0);
	CHECK_EQ(spool_stat(sp, "", "f", &st), 0);
	CHECK(S_ISLNK(st.st_mode));
	CHECK_EQ(spool_mknod(sp, S_IFIFO | 0600, 0, "", "p"), 0);
	CHECK_EQ(spool_stat(sp, "", "p", &st), 0);
	CHECK(S_ISFIFO(st.st_mode));
	CHECK_EQ(spool_mkdirs(sp, "d/e", 0700, 0, 0), 0);
	CHECK_EQ(spool_rmdir(sp, "d"), ERR_EXISTS);
	CHECK_EQ(spool_move(sp, "d/e", "g"), 0);
	CHECK_EQ(spool_rmdir(sp, "d"), 0);
	CHECK_EQ(spool_rmdir(sp, "g"), 0);
	CHECK_EQ(spool_rmdir(sp, "g"), ERR_NOTFOUND);
	spool_close(sp);
}

struct seen {
	char text[1000];
};

static int
note(void *arg, const char *dir, const char *name, bool mbox, const struct stat *st)
{
	struct seen *s = arg;
	size_t n = strlen(s->text);

	snprintf(s->text + n, sizeof(s->text) - n, "%s|%s|%d%d ", dir,
		name != NULL ? name : "-", mbox, S_ISDIR(st->st_mode));
	return 0;
}

TEST(walk_tells_mailboxes_from_other_files)
{
	struct spool *sp = opened();
	struct seen s = { "" };

	CHECK_EQ(spool_mkdirs(sp, "stage.", 0700, 0, 0), 0);
	CHECK_EQ(spool_mkdirs(sp, "sync./1", 0700, 0, 0), 0);
	CHECK_EQ(spool_mkdirs(sp, "u/box", 0700, 0, 0), 0);
	CHECK_EQ(spool_replace(sp, "u/box", "cyrus.index", "", 0, 0600, 0, 0), 0);
	CHECK_EQ(spool_replace(sp, "u/box", "cyrus.cache.NEW", "", 0, 0600, 0, 0), 0);
	CHECK_EQ(spool_replace(sp, "u/box", "12.", "", 0, 0600, 0, 0), 0);
	CHECK_EQ(spool_replace(sp, "u/box", "odd", "", 0, 0600, 0, 0), 0);
	CHECK_EQ(spool_walk(sp, note, &s), 0);
	CHECK_STR(s.text, "|u|01 u/box|-|11 u/box|odd|00 ");
	spool_close(sp);
}

TEST(names_of_a_mailbox)
{
	CHECK(spool_name_is_mbox("1."));
	CHECK(spool_name_is_mbox("4294967295."));
	CHECK(spool_name_is_mbox("cyrus.index"));
	CHECK(spool_name_is_mbox("cyrus.index.NEW"));
	CHECK(!spool_name_is_mbox("01."));
	CHECK(!spool_name_is_mbox("1"));
	CHECK(!spool_name_is_mbox("1.."));
	CHECK(!spool_name_is_mbox("cyrus.indexes"));
	CHECK(!spool_name_is_mbox("cyrus.note"));
	CHECK(!spool_name_is_mbox("cyrus.squat"));
}

TEST(limit_stops_every_change)
{
	struct spool *sp = opened();
	struct stat st;

	CHECK_EQ(spool_replace(sp, "", "f", "x", 1, 0600, 0, 0), 0);
	spool_changes(sp);
	CHECK_EQ(spool_replace(sp, "", "f", "y", 1, 0600, 0, 0), 0);
	long all = spool_changes(sp);
	CHECK(all >= 3);
	for (long n = 0; n < all; n++) {
		spool_set_limit(sp, n);
		CHECK_EQ(spool_replace(sp, "", "f", "zz", 2, 0600, 0, 0), ERR_IO);
		CHECK(content_is(sp, "", "f", "y"));
	}
	CHECK_EQ(spool_unlink(sp, "", "f"), ERR_IO);
	CHECK_EQ(spool_stat(sp, "", "f", &st), 0);
	spool_set_limit(sp, -1);
	CHECK_EQ(spool_unlink(sp, "", "f"), 0);
	spool_close(sp);
}

T_MAIN
