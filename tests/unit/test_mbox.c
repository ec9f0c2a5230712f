/*
 * test_mbox.c - the ways a batch is made other than by touch (derived, whole, renamed,
 * removed), references instead of bodies, the state's bytes, and what must not leave.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "meta/scan.h"
#include "tests/lib/rig.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct rig_pair *
story(uint32_t minor, int steps)
{
	struct rig_pair *x = rig_pair_open(minor);

	rig_create(&x->g);
	for (int i = 0; i < steps; i++)
		rig_random(&x->g);
	return x;
}

/* A batch of that sort, through its bytes, into x->batch. */
static struct mbox_fault said; /* by the last make */

static int
make(struct rig_pair *x, bool derive, bool whole, mbox_ref_fn *ref,
	const char *from_dir)
{
	struct mbox_delta d = { .dir = x->g.dir,
		.before = x->g.state.header.minor_version ? &x->g.state : NULL,
		.derive = derive,
		.whole = whole,
		.from_dir = from_dir,
		.ref = ref };
	struct mbox_fault fault = { .uid = 0 };
	struct mbox_state state;
	struct batch b;
	int rc = mbox_delta(x->a, &d, NULL, 0, &b, &state, &fault);

	said = fault;
	if (rc != 0)
		return rc;
	x->g.state = state;
	x->g.n_touched = 0;
	x->g.annots_touched = false;
	buf_clear(&x->raw);
	batch_fini(&x->batch);
	rc = batch_encode(&b, &x->raw);
	batch_fini(&b);
	return rc != 0 ? rc : batch_decode(x->raw.data, x->raw.len, &x->batch);
}

static int
put(struct rig_pair *x)
{
	int rc = rig_apply(&x->p, &x->batch, MBOX_CHECK);

	if (rc != 0)
		printf("# %s: %s: %s\n", err_text(rc), x->p.fault.check,
			x->p.fault.text);
	return rc;
}

TEST(state_round_trip)
{
	struct rig_pair *x = story(17, 10);
	struct mbox_state s, t;
	struct buf raw = BUF_INIT, again = BUF_INIT;

	CHECK_EQ(mbox_load(x->a, x->g.dir, NULL, &s, NULL), 0);
	CHECK_STR(s.uniqueid, "abcdefgh");
	CHECK_EQ(mbox_state_encode(&s, &raw), 0);
	CHECK_EQ(mbox_state_decode(raw.data, raw.len, &t), 0);
	CHECK_EQ(mbox_state_encode(&t, &again), 0);
	CHECK_EQ(raw.len, again.len);
	CHECK_MEM(raw.data, again.data, raw.len);
	CHECK(sum_eq(mbox_sum_total(&s.sum), mbox_sum_total(&t.sum)));
	CHECK_EQ(s.index_ino, t.index_ino);
	CHECK_EQ(s.index_mtime, t.index_mtime);
	CHECK_EQ(change_header_diff(&s.header, &t.header), 0);
	for (size_t n = 0; n < raw.len; n++) {
		uint8_t *p = malloc(n + 1);
		memcpy(p, raw.data, n);
		CHECK(mbox_state_decode(p, n, &t) != 0);
		CHECK_EQ(t.header.minor_version, 0);
		free(p);
	}
	raw.data[0]++;
	CHECK_EQ(mbox_state_decode(raw.data, raw.len, &t), ERR_VERSION);
	memset(&s, 0, sizeof(s));
	buf_clear(&raw);
	CHECK_EQ(mbox_state_encode(&s, &raw), 0);
	CHECK_EQ(mbox_state_decode(raw.data, raw.len, &t), 0);
	CHECK_EQ(t.header.minor_version, 0);
	buf_fini(&raw);
	buf_fini(&again);
	rig_pair_close(x);
}

TEST(sum_by_touch_is_the_sum_of_all)
{
	struct rig_pair *x = story(17, 1);
	struct mbox_state s;

	for (int i = 0; i < 60; i++) {
		rig_random(&x->g);
		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		CHECK_EQ(mbox_load(x->a, x->g.dir, NULL, &s, NULL), 0);
		CHECK(sum_eq(mbox_sum_total(&s.sum), mbox_sum_total(&x->g.state.sum)));
		CHECK(sum_eq(s.sum.records, x->g.state.sum.records));
		CHECK(sum_eq(s.sum.annots, x->g.state.sum.annots));
	}
	rig_pair_close(x);
}

TEST(derived_after_missed_commits)
{
	for (int round = 0; round < 8; round++) {
		struct rig_pair *x = story(17, 5);
		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		for (int i = 0; i < 4; i++) {
			uint32_t uid = rig_append(&x->g, 100);
			rig_flag(&x->g, uid, INDEX_FLAG_FLAGGED);
			rig_annotate(&x->g, uid, "/comment", "late");
			uid = rig_any(&x->g);
			rig_keyword(&x->g, uid, "late");
			rig_expunge(&x->g, uid);
			rig_commit(&x->g);
		}
		CHECK_EQ(make(x, true, false, NULL, NULL), 0);
		CHECK_EQ(x->batch.flags, BATCH_DERIVED);
		CHECK_EQ(put(x), 0);
		RIG_SAME(x);
		/* And again, over a state that is there already. */
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_REDO), 0);
		RIG_SAME(x);
		rig_pair_close(x);
	}
}

TEST(silent_changes_need_a_comparison)
{
	struct rig_pair *x = story(17, 5);

	rig_expunge(&x->g, rig_append(&x->g, 20));
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_unlink(&x->g, x->g.h.last_uid);
	rig_commit(&x->g);
	CHECK_EQ(make(x, true, false, NULL, NULL), 0);
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), ERR_SUM);
	rig_pair_close(x);
}

TEST(whole_onto_nothing_and_onto_anything)
{
	for (int round = 0; round < 10; round++) {
		struct rig_pair *x = story(17, 12);
		if (round % 2) {
			/* The peer has something else: other messages, other flags. */
			CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
			for (int i = 0; i < 6; i++)
				rig_random(&x->g);
			rig_repack(&x->g, 0);
			rig_random(&x->g);
		}
		CHECK_EQ(make(x, false, true, NULL, NULL), 0);
		CHECK(x->batch.flags & BATCH_WHOLE);
		CHECK_EQ(put(x), 0);
		RIG_SAME(x);
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_REDO), 0);
		RIG_SAME(x);
		rig_pair_close(x);
	}
}

/* ---- references, renames, removal ---- */

static const char *ref_dir_is;

static bool
ref_same_uid(void *arg, const char *dir, uint32_t uid, uint64_t ino, char *ref_dir,
	uint32_t *ref_uid)
{
	(void)arg;
	(void)dir;
	(void)ino;
	snprintf(ref_dir, BATCH_MAX_PATH, "%s", ref_dir_is);
	*ref_uid = uid;
	return true;
}

TEST(a_copy_travels_as_a_reference)
{
	struct rig_pair *x = rig_pair_open(17);
	struct rig copy;
	struct stat st;

	rig_create(&x->g);
	rig_append(&x->g, 3000);
	rig_append(&x->g, 2000);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(x->p.fetched, 2);

	struct rig first = x->g;
	rig_init(&copy, x->a, "user/rig/copy", "ijklmnop", 17);
	rig_create(&copy);
	rig_copy(&copy, &first, 1);
	rig_copy(&copy, &first, 2);
	rig_commit(&copy);
	x->g = copy;
	memset(&x->p.state, 0, sizeof(x->p.state));
	ref_dir_is = first.dir;
	CHECK_EQ(make(x, false, false, ref_same_uid, NULL), 0);
	CHECK_EQ(put(x), 0);
	CHECK_EQ(x->p.fetched, 2);
	RIG_SAME(x);
	CHECK_EQ(spool_stat(x->b, copy.dir, "1.", &st), 0);
	CHECK_EQ(st.st_nlink, 2);

	/* A peer that lacks it asks for the bytes. */
	CHECK_EQ(spool_unlink(x->b, first.dir, "2."), 0);
	CHECK_EQ(spool_unlink(x->b, copy.dir, "2."), 0);
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_REDO), 0);
	CHECK_EQ(x->p.fetched, 3);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* The record there must name the message, or the file's own bytes prove it. */
TEST(a_reference_to_something_else_is_not_followed)
{
	struct rig_pair *x = rig_pair_open(17);
	struct rig copy;

	rig_create(&x->g);
	rig_append(&x->g, 3000);
	rig_append(&x->g, 3000);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	struct rig first = x->g;
	rig_init(&copy, x->a, "user/rig/copy", "ijklmnop", 17);
	rig_create(&copy);
	rig_copy(&copy, &first, 2); /* under UID 1, where the first has another */
	rig_commit(&copy);
	x->g = copy;
	memset(&x->p.state, 0, sizeof(x->p.state));
	ref_dir_is = first.dir;
	CHECK_EQ(make(x, false, false, ref_same_uid, NULL), 0);
	CHECK_EQ(put(x), 0);
	CHECK_EQ(x->p.fetched, 3);
	RIG_SAME(x);
	rig_pair_close(x);
}

TEST(a_renamed_folder_is_linked_and_the_old_one_removed)
{
	struct rig_pair *x = story(17, 15);
	char cmd[1200];
	struct stat st;

	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	unsigned fetched = x->p.fetched;
	struct mbox_state old_peer = x->p.state;
	struct rig old = x->g;
	snprintf(cmd, sizeof(cmd),
		"cp -al %s/user/rig/box %s/user/rig/new && cd "
		"%s/user/rig/new && for f in cyrus.*; do "
		"cp -p $f t && mv t $f; done",
		x->root[0], x->root[0], x->root[0]);
	CHECK_EQ(system(cmd), 0);
	snprintf(x->g.dir, sizeof(x->g.dir), "user/rig/new");
	memset(&x->g.state, 0, sizeof(x->g.state));
	memset(&x->p.state, 0, sizeof(x->p.state));
	CHECK_EQ(make(x, false, false, NULL, old.dir), 0);
	CHECK_EQ(put(x), 0);
	RIG_SAME(x);
	CHECK_EQ(x->p.fetched, fetched);
	for (uint32_t i = 0; i < x->g.h.num_records; i++)
		if (x->g.rec[i].flags == 0)
			CHECK(x->p.state.header.exists > 0);

	rig_options(&old, INDEX_OPT_DELETED);
	rig_commit(&old);
	struct rig_pair y = *x;
	y.g = old;
	y.raw = (struct buf)BUF_INIT;
	batch_init(&y.batch);
	y.p.state = old_peer;
	CHECK_EQ(rig_delta(&y.g, &y.raw, &y.batch), 0);
	CHECK_EQ(y.batch.flags, BATCH_REMOVE);
	CHECK_EQ(y.g.state.header.minor_version, 0);
	CHECK_EQ(mbox_apply(
			 y.b, &y.batch, MBOX_CHECK, &x->p.env, &y.p.state, NULL, NULL),
		0);
	CHECK_EQ(y.p.state.header.minor_version, 0);
	CHECK_EQ(spool_stat(x->b, old.dir, NULL, &st), ERR_NOTFOUND);
	CHECK_EQ(
		mbox_apply(y.b, &y.batch, MBOX_REDO, &x->p.env, &y.p.state, NULL, NULL),
		0);
	RIG_SAME(x);
	batch_fini(&y.batch);
	buf_fini(&y.raw);
	rig_pair_close(x);
}

TEST(removal_stops_at_other_mailboxes)
{
	struct rig_pair *x = story(17, 5);
	struct mbox_fault fault;
	struct stat st;

	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(spool_mkdirs(x->b, "user/rig/box/child", 0700, 0, 0), 0);
	CHECK_EQ(spool_replace(
			 x->b, "user/rig/box/child", "cyrus.index", "", 0, 0600, 0, 0),
		0);
	CHECK_EQ(spool_replace(x->b, "user/rig/box", "odd", "", 0, 0600, 0, 0), 0);
	struct batch b;
	batch_init(&b);
	b.flags = BATCH_REMOVE;
	b.dir = x->g.dir;
	b.uniqueid = "someoneelse";
	b.before = mbox_sum_total(&x->p.state.sum);
	CHECK_EQ(mbox_apply(x->b, &b, MBOX_CHECK, &x->p.env, &x->p.state, NULL, &fault),
		ERR_DIVERGED);
	b.uniqueid = "abcdefgh";
	b.before.hi++;
	CHECK_EQ(mbox_apply(x->b, &b, MBOX_CHECK, &x->p.env, &x->p.state, NULL, &fault),
		ERR_DIVERGED);
	RIG_SAME(x);
	b.before.hi--;
	x->p.keep = true;
	CHECK_EQ(mbox_apply(x->b, &b, MBOX_CHECK, &x->p.env, &x->p.state, NULL, &fault),
		0);
	CHECK_EQ(spool_stat(x->b, x->g.dir, "cyrus.index", &st), ERR_NOTFOUND);
	CHECK_EQ(spool_stat(x->b, x->g.dir, "odd", &st), 0);
	CHECK_EQ(spool_stat(x->b, "user/rig/box/child", "cyrus.index", &st), 0);
	for (uint32_t i = 0; i < x->g.h.num_records; i++) {
		char hex[41];
		hash_hex(x->g.rec[i].guid, SHA1_LEN, hex);
		if ((x->g.rec[i].flags & INDEX_FLAG_UNLINKED) == 0)
			CHECK_EQ(spool_stat(x->b, ".twinspool/kept", hex, &st), 0);
	}
	rig_pair_close(x);
}

/* The archive partition has a mount of its own, or none. */
TEST(an_archived_message_may_lie_elsewhere)
{
	struct rig_pair *x = rig_pair_open(17);
	struct stat st;

	rig_create(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_append(&x->g, 10);
	rig_append(&x->g, 10);
	x->g.rec[0].flags |= INDEX_FLAG_ARCHIVED;
	x->g.rec[1].flags |= INDEX_FLAG_ARCHIVED;
	rig_commit(&x->g);
	CHECK_EQ(spool_unlink(x->a, x->g.dir, "1."), 0);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK(sum_eq(mbox_sum_total(&x->g.state.sum), mbox_sum_total(&x->p.state.sum)));
	CHECK_EQ(x->p.fetched, 1);
	CHECK_EQ(spool_stat(x->b, x->g.dir, "2.", &st), 0);
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_REDO), 0);
	CHECK_EQ(x->p.fetched, 1);
	rig_pair_close(x);
}

/* ---- what must not leave ---- */

static void
rewrite_byte(struct spool *sp, const char *dir, const char *name, off_t at)
{
	uint8_t c = 0;
	int fd;

	if (spool_file(sp, dir, name, O_RDWR, 0, &fd) != 0 || pread(fd, &c, 1, at) != 1)
		abort();
	c ^= 0x40;
	if (pwrite(fd, &c, 1, at) != 1)
		abort();
	close(fd);
}

static int
leaves(struct rig_pair *x, const char *check)
{
	struct mbox_delta d = { .dir = x->g.dir,
		.before = &x->g.state,
		.touched = x->g.touched,
		.n_touched = x->g.n_touched };
	struct mbox_fault fault = { .uid = 0 };
	struct mbox_state state;
	struct batch b;
	int rc = mbox_delta(x->a, &d, NULL, 0, &b, &state, &fault);

	if (rc == 0)
		batch_fini(&b);
	else if (strcmp(fault.check, check) != 0)
		printf("# fault is %s: %s\n", fault.check, fault.text);
	return rc != 0 && strcmp(fault.check, check) == 0 ? rc : 0;
}

TEST(damage_does_not_leave)
{
	struct rig_pair *x = rig_pair_open(17);
	struct index_record was;

	rig_create(&x->g);
	for (int i = 0; i < 5; i++)
		rig_append(&x->g, 100);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_flag(&x->g, 2, INDEX_FLAG_SEEN);
	rig_commit(&x->g);
	/* The touched record, and its neighbour. */
	rewrite_byte(x->a, x->g.dir, "cyrus.index", 160 + 112 + 50);
	CHECK_EQ(leaves(x, "record-crc"), ERR_CHECKSUM);
	rewrite_byte(x->a, x->g.dir, "cyrus.index", 160 + 112 + 50);
	rewrite_byte(x->a, x->g.dir, "cyrus.index", 160 + 112 * 2 + 50);
	CHECK_EQ(leaves(x, "record-crc"), ERR_CHECKSUM);
	rewrite_byte(x->a, x->g.dir, "cyrus.index", 160 + 112 * 2 + 50);
	/* The header. */
	rewrite_byte(x->a, x->g.dir, "cyrus.index", 70);
	CHECK_EQ(leaves(x, "index-header"), ERR_CHECKSUM);
	rewrite_byte(x->a, x->g.dir, "cyrus.index", 70);

	was = x->g.rec[1];
	x->g.rec[1].guid[0] ^= 1;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "guid"), ERR_MANGLED);
	memset(x->g.rec[1].guid, 0, SHA1_LEN);
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "guid"), ERR_MANGLED);
	x->g.rec[1] = was;
	x->g.rec[1].size++;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "message"), ERR_MANGLED);
	x->g.rec[1] = was;
	x->g.rec[1].internaldate += 1000000000;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "message"), ERR_MANGLED);
	x->g.rec[1] = was;
	x->g.rec[1].header_size++;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "message"), ERR_MANGLED);
	x->g.rec[1] = was;
	x->g.rec[1].uid = 9;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "last-uid"), ERR_MANGLED);
	x->g.rec[1].uid = 1;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "uid-order"), ERR_MANGLED);
	x->g.rec[1].uid = 3;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "uid-order"), ERR_MANGLED);
	x->g.rec[1] = was;
	x->g.rec[1].flags |= INDEX_FLAG_UNLINKED;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "flags"), ERR_MANGLED);
	x->g.rec[1] = was;
	x->g.rec[1].modseq += 100;
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "modseq"), ERR_MANGLED);
	x->g.rec[1] = was;
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);

	rig_expunge(&x->g, 2);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_flag(&x->g, 2, INDEX_FLAG_EXPUNGED);
	rig_commit(&x->g);
	CHECK_EQ(leaves(x, "expunge"), ERR_MANGLED);
	rig_pair_close(x);
}

TEST(an_append_without_its_message_does_not_leave)
{
	struct rig_pair *x = rig_pair_open(17);

	rig_create(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_append(&x->g, 100);
	rig_commit(&x->g);
	CHECK_EQ(spool_replace(x->a, x->g.dir, "1.", "short", 5, 0600, 0, 0), 0);
	CHECK_EQ(leaves(x, "body"), ERR_BODY);
	CHECK_EQ(spool_replace(x->a, x->g.dir, "1.", "", 0, 0600, 0, 0), 0);
	CHECK_EQ(leaves(x, "body"), ERR_BODY);
	CHECK_EQ(spool_unlink(x->a, x->g.dir, "1."), 0);
	CHECK_EQ(leaves(x, "body"), ERR_BODY);
	CHECK_EQ(spool_symlink(x->a, "/etc/passwd", x->g.dir, "1."), 0);
	CHECK_EQ(leaves(x, "body"), ERR_BODY);
	rig_pair_close(x);
}

/* The commit in which capture saw cyrus.header being replaced. */
static int
after_kill(struct rig_pair *x, bool derive, bool locked, struct mbox_state *state_out)
{
	struct mbox_delta d = { .dir = x->g.dir,
		.before = &x->g.state,
		.touched = x->g.touched,
		.n_touched = x->g.n_touched,
		.names = true,
		.derive = derive,
		.locked = locked };
	struct mbox_fault fault = { .uid = 0 };
	struct mbox_state state;
	struct batch b;
	int rc = mbox_delta(x->a, &d, NULL, 0, &b, &state, &fault);

	if (rc != 0)
		return strcmp(fault.check, "header-file-crc") == 0 ? rc : ERR_USAGE;
	*state_out = state;
	batch_fini(&b);
	return 0;
}

static void
age(struct rig_pair *x, const char *name)
{
	CHECK_EQ(spool_attrs(x->a, x->g.dir, name, SPOOL_KEEP, SPOOL_KEEP, SPOOL_KEEP,
			 1000000000),
		0);
}

TEST(names_that_the_index_does_not_confirm_wait)
{
	struct rig_pair *x = rig_pair_open(17);

	rig_create(&x->g);
	rig_append(&x->g, 100);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_keyword(&x->g, 1, "word");
	x->g.h.header_file_crc ^= 1;
	rig_commit(&x->g);
	CHECK_EQ(after_kill(x, false, true, NULL), ERR_BUSY);
	CHECK_EQ(after_kill(x, true, true, NULL), ERR_BUSY);
	x->g.h.header_file_crc ^= 1;
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* Its writer is dead: every later reader goes by the new names, and the index is never made to
 * confirm them. */
TEST(names_that_a_killed_writer_left_are_taken)
{
	for (int derive = 0; derive < 2; derive++) {
		struct rig_pair *x = rig_pair_open(17);
		struct mbox_state now;

		rig_create(&x->g);
		rig_append(&x->g, 100);
		rig_commit(&x->g);
		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		uint32_t crc = x->g.h.header_file_crc;
		rig_keyword(&x->g, 1, "word");
		x->g.h.header_file_crc = crc;
		rig_commit(&x->g);
		CHECK_EQ(after_kill(x, derive, false, &now), 0);
		CHECK(!sum_eq(now.sum.names, x->g.state.sum.names));
		/* Known once, they stay the names, however old they get to be. */
		age(x, "cyrus.header");
		CHECK_EQ(mbox_load(x->a, x->g.dir, &now, &now, NULL), 0);
		CHECK_EQ(mbox_load(x->a, x->g.dir, &x->g.state, &now, NULL), ERR_BUSY);
		rig_pair_close(x);
	}
}

/* Damage makes a file no younger. */
TEST(names_that_changed_where_they_lay_do_not_leave)
{
	struct rig_pair *x = rig_pair_open(17);
	struct buf names = BUF_INIT;

	rig_create(&x->g);
	rig_append(&x->g, 100);
	rig_keyword(&x->g, 1, "word");
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(spool_read(x->a, x->g.dir, "cyrus.header", 4000, &names, NULL), 0);
	uint8_t *at = memmem(names.data, names.len, "word", 4);
	CHECK(at != NULL);
	at[0] = 'W';
	CHECK_EQ(spool_replace(x->a, x->g.dir, "cyrus.header", names.data, names.len,
			 0600, 8, 8),
		0);
	age(x, "cyrus.header");
	for (int derive = 0; derive < 2; derive++)
		CHECK_EQ(after_kill(x, derive, false, NULL), ERR_BUSY);
	CHECK_EQ(mbox_load(x->a, x->g.dir, NULL, &x->p.state, NULL), ERR_BUSY);
	buf_fini(&names);
	rig_pair_close(x);
}

TEST(absence_is_not_deletion)
{
	struct rig_pair *x = story(17, 3);

	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(spool_unlink(x->a, x->g.dir, "cyrus.index"), 0);
	CHECK_EQ(leaves(x, "index-missing"), ERR_MANGLED);
	memset(&x->g.state, 0, sizeof(x->g.state));
	CHECK_EQ(make(x, false, false, NULL, NULL), ERR_NOTFOUND);
	rig_pair_close(x);
}

/* A Cyrus that died between its records and its header: the next derivation still goes through,
 * and the counters that do not add up are not held against it. */
TEST(an_aborted_transaction_is_derived)
{
	struct rig_pair *x = rig_pair_open(17);
	uint8_t p[INDEX_MAX_RECORD];
	int fd;

	rig_create(&x->g);
	for (int i = 0; i < 3; i++)
		rig_append(&x->g, 100);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	struct index_record r = x->g.rec[1];
	r.flags ^= INDEX_FLAG_FLAGGED;
	r.modseq = x->g.h.highestmodseq + 1;
	CHECK_EQ(index_record_encode(17, &r, p), 0);
	CHECK_EQ(spool_file(x->a, x->g.dir, "cyrus.index", O_RDWR, 0, &fd), 0);
	CHECK_EQ(pwrite(fd, p, 112, 160 + 112), 112);
	close(fd);
	CHECK_EQ(make(x, true, false, NULL, NULL), 0);
	CHECK(strstr(said.text, "does not add up") != NULL);
	CHECK_EQ(x->batch.sync_basic, 0);
	CHECK_EQ(put(x), 0);
	/* Cyrus goes on: its own sum stays wrong, and that stops nothing. */
	CHECK_EQ(x->p.state.header.sync_basic, 0);
	x->g.rec[1] = r;
	rig_flag(&x->g, 1, INDEX_FLAG_SEEN);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* ---- mailboxes that a real Cyrus made ---- */

static bool
golden(struct rig_pair *x, const char *name)
{
	char cmd[1500];

	snprintf(cmd, sizeof(cmd),
		"test -d %s/%s && mkdir -p %s/g && cp -a %s/%s %s/g/", t_golden(), name,
		x->root[0], t_golden(), name, x->root[0]);
	snprintf(x->g.dir, sizeof(x->g.dir), "g/%s", name);
	return system(cmd) == 0;
}

TEST(golden_mailboxes_add_up)
{
	static const char *const names[] = { "v10", "v12", "v13", "v14", "v15", "v16",
		"v17", "upgraded" };
	struct rig_pair *x = rig_pair_open(17);
	struct mbox_fault fault = { .uid = 0 };
	struct mbox_state state;
	struct scan s;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		CHECK(golden(x, names[i]));
		int rc = mbox_load(x->a, x->g.dir, NULL, &state, &fault);
		if (rc != 0)
			printf("# %s: %s: %s\n", names[i], fault.check, fault.text);
		CHECK_EQ(rc, 0);
		CHECK(state.header.num_records > 0);
		CHECK_EQ(scan_open(x->a, x->g.dir, SCAN_STRICT, NULL, &s, &fault), 0);
		const char *wrong = scan_tally_check(&s.tally, &s.ix.h);
		if (wrong != NULL)
			printf("# %s: %s\n", names[i], wrong);
		CHECK(wrong == NULL);
		scan_close(&s);
	}
	rig_pair_close(x);
}

TEST(a_golden_mailbox_is_replicated)
{
	struct rig_pair *x = rig_pair_open(17);

	CHECK(golden(x, "v17"));
	CHECK_EQ(make(x, false, false, NULL, NULL), 0);
	CHECK_EQ(x->batch.flags, BATCH_CREATE);
	CHECK(x->batch.sync_basic != 0 && x->batch.sync_annot != 0);
	CHECK_EQ(put(x), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

T_MAIN
