/*
 * test_apply_path.c - replay of what lies outside mailboxes, and that it stays outside.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "tests/lib/rig.h"
#include "tests/lib/t.h"

static struct change_path *
add_path(struct batch *b, enum change_kind kind, const char *path)
{
	struct change *c = batch_add(b, kind);

	c->u.path.path = path;
	c->u.path.mode = 0100640;
	c->u.path.uid = 3;
	c->u.path.gid = 4;
	c->u.path.mtime = 1700000000123456789u;
	return &c->u.path;
}

TEST(paths_are_replayed)
{
	struct rig_pair *x = rig_pair_open(17);
	struct stat st;
	struct batch b;

	CHECK_EQ(spool_replace(x->a, "", "note", "hello", 5, 0600, 0, 0), 0);
	batch_init(&b);
	add_path(&b, CHANGE_DIR, "d")->mode = 040750;
	add_path(&b, CHANGE_DIR, "d/e")->mode = 040700;
	struct change_path *f = add_path(&b, CHANGE_FILE, "note");
	f->size = 5;
	hash_sha1("hello", 5, f->sha1);
	f = add_path(&b, CHANGE_FILE, "d/empty");
	hash_sha1("", 0, f->sha1);
	f = add_path(&b, CHANGE_SYMLINK, "d/link");
	f->target = "../note";
	f->mode = 0120777;
	add_path(&b, CHANGE_NODE, "d/fifo")->mode = 010600;
	add_path(&b, CHANGE_MOVE, "d/e")->target = "f";
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
		CHECK_EQ(x->p.fetched, 1);
		CHECK_EQ(spool_stat(x->b, "", "note", &st), 0);
		CHECK_EQ(st.st_mode, 0100640);
		CHECK_EQ(st.st_size, 5);
		CHECK_EQ(st.st_uid, 3);
		CHECK_EQ(st.st_mtim.tv_nsec, 123456789);
		CHECK_EQ(spool_stat(x->b, "d", "link", &st), 0);
		CHECK(S_ISLNK(st.st_mode));
		CHECK_EQ(spool_stat(x->b, "d", "fifo", &st), 0);
		CHECK(S_ISFIFO(st.st_mode));
		CHECK_EQ(spool_stat(x->b, "f", NULL, &st), 0);
		/* The second time d/e is made and moved over f: both empty folders. */
	}
	batch_fini(&b);
	batch_init(&b);
	add_path(&b, CHANGE_DELETE, "d");
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), ERR_DIVERGED);
	b.n = 0;
	add_path(&b, CHANGE_DELETE, "d/empty");
	add_path(&b, CHANGE_DELETE, "d/link");
	add_path(&b, CHANGE_DELETE, "d/fifo");
	add_path(&b, CHANGE_DELETE, "d");
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
	CHECK_EQ(spool_stat(x->b, "d", NULL, &st), ERR_NOTFOUND);
	CHECK_EQ(spool_stat(x->b, "", "note", &st), 0);
	/* A name that is taken is a difference, to be compared, and no end of it. */
	b.n = 0;
	add_path(&b, CHANGE_DIR, "g")->mode = 040700;
	hash_sha1("", 0, add_path(&b, CHANGE_FILE, "f/in_it")->sha1);
	add_path(&b, CHANGE_MOVE, "g")->target = "f";
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), ERR_DIVERGED);
	batch_fini(&b);
	rig_pair_close(x);
}

static bool
is_file(struct spool *sp, const char *path)
{
	struct stat st;

	return spool_stat(sp, "", path, &st) == 0 && S_ISREG(st.st_mode);
}

/* A power cut left the name that an earlier life kept, and not its bytes. */
TEST(a_torn_file_that_was_kept_is_not_used)
{
	struct rig_pair *x = rig_pair_open(17);
	char hex[2 * SHA1_LEN + 1];
	struct stat st;
	struct batch b;

	CHECK_EQ(spool_replace(x->a, "", "note", "hello", 5, 0600, 0, 0), 0);
	batch_init(&b);
	struct change_path *f = add_path(&b, CHANGE_FILE, "note");
	f->size = 5;
	hash_sha1("hello", 5, f->sha1);
	hash_hex(f->sha1, SHA1_LEN, hex);
	CHECK_EQ(spool_replace(x->b, ".twinspool/kept", hex, "", 0, 0600, 0, 0), 0);
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
	CHECK_EQ(x->p.fetched, 1);
	CHECK_EQ(spool_stat(x->b, "", "note", &st), 0);
	CHECK_EQ(st.st_size, 5);
	batch_fini(&b);
	rig_pair_close(x);
}

TEST(an_exchange_is_done_once)
{
	struct rig_pair *x = rig_pair_open(17);
	struct batch b;

	CHECK_EQ(spool_mkdirs(x->b, "one", 0700, 0, 0), 0);
	CHECK_EQ(spool_replace(x->b, "", "two", "x", 1, 0600, 0, 0), 0);
	batch_init(&b);
	struct change_path *c = add_path(&b, CHANGE_SWAP, "one");
	c->target = "two";
	c->rdev = 71;
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
	CHECK(is_file(x->b, "one"));
	/* The same row again, after a crash. */
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_REDO), 0);
	CHECK(is_file(x->b, "one"));
	/* Written down and not done: then it is to be done. */
	CHECK_EQ(spool_move(x->b, "one", "tmp"), 0);
	CHECK_EQ(spool_move(x->b, "two", "one"), 0);
	CHECK_EQ(spool_move(x->b, "tmp", "two"), 0);
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_REDO), 0);
	CHECK(is_file(x->b, "one"));
	/* Another row. */
	c->rdev = 72;
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
	CHECK(is_file(x->b, "two"));
	c->target = "none";
	c->rdev = 73;
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), ERR_DIVERGED);
	c->target = ".twinspool/id";
	CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), ERR_MANGLED);
	batch_fini(&b);
	rig_pair_close(x);
}

TEST(paths_do_not_touch_mailboxes_or_our_own)
{
	static const char *const wrong[] = { "user/rig/box/1.",
		"user/rig/box/cyrus.index", "user/rig/box/cyrus.header",
		"user/rig/box/cyrus.cache.NEW", ".twinspool/id", ".twinspool",
		"stage./x", "sync./1/x", "../x", "/x", "" };
	struct rig_pair *x = rig_pair_open(17);
	struct batch b;

	rig_create(&x->g);
	rig_append(&x->g, 10);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		batch_init(&b);
		add_path(&b, CHANGE_DELETE, wrong[i]);
		CHECK(rig_apply(&x->p, &b, MBOX_CHECK) != 0);
		b.n = 0;
		add_path(&b, CHANGE_FILE, wrong[i]);
		CHECK(rig_apply(&x->p, &b, MBOX_CHECK) != 0);
		b.n = 0;
		add_path(&b, CHANGE_MOVE, "ok")->target = wrong[i];
		CHECK(rig_apply(&x->p, &b, MBOX_CHECK) != 0);
		batch_fini(&b);
	}
	RIG_SAME(x);
	rig_pair_close(x);
}

T_MAIN
