/*
 * test_apply.c - delta and apply are inverse: whatever Cyrus does to a mailbox, the batch made of
 * it brings a copy to the same state.
 *
 * What dies here is the process, never the machine: fdatasync, which an apply calls before a copy
 * gets its name, is this program's own and does nothing. Thousands of real ones wait for a busy
 * disk longer than all the rest takes.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "meta/scan.h"
#include "tests/lib/rig.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <unistd.h>

int
fdatasync(int fd)
{
	(void)fd;
	return 0;
}

TEST(a_mailbox_is_created)
{
	struct rig_pair *x = rig_pair_open(17);

	rig_create(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	CHECK(x->batch.flags == BATCH_CREATE);
	rig_pair_close(x);
}

TEST(append_flag_expunge_unlink_repack)
{
	struct rig_pair *x = rig_pair_open(17);

	rig_create(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	uint32_t one = rig_append(&x->g, 100), two = rig_append(&x->g, 200);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	CHECK_EQ(x->p.fetched, 2);
	rig_flag(&x->g, one, INDEX_FLAG_SEEN);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_keyword(&x->g, two, "Junk");
	rig_annotate(&x->g, two, "/comment", "hello");
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_expunge(&x->g, one);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_unlink(&x->g, one);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_repack(&x->g, 0);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	CHECK_EQ(x->p.state.header.num_records, 1);
	rig_repack(&x->g, 20);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	CHECK_EQ(x->p.state.header.minor_version, 20);
	rig_pair_close(x);
}

/* Those that came are placed in any order; those that did not are asked for, and a copy of one of them
 * is a link. */
TEST(many_messages_are_placed_in_any_order)
{
	struct rig_pair *x = rig_pair_open(17);
	struct spool_place to = { -1, NULL, "5.", 0, 0, 0600, SPOOL_KEEP, false };
	struct stat st;

	rig_create(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	for (int i = 0; i < 40; i++)
		rig_append(&x->g, 100 + (size_t)i);
	rig_commit(&x->g);
	/* What a crash may have left under one of the names. */
	to.dir = x->g.dir;
	CHECK_EQ(spool_make(x->b, &to, "debris", 6), 0);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	CHECK_EQ(x->p.fetched, 40);
	CHECK(x->p.spread > 0);
	for (uint32_t uid = 1; uid <= 40; uid++)
		CHECK(rig_copy(&x->g, &x->g, uid) == 40 + uid);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	CHECK_EQ(spool_stat(x->b, x->g.dir, "80.", &st), 0);
	rig_pair_close(x);
}

/* A rename of folders by name leaves the old name in cyrus.header; Cyrus counts the owner's
 * annotations under the new one. */
TEST(an_owners_annotation_after_a_rename_by_name)
{
	struct rig_pair *x = rig_pair_open(17);

	snprintf(x->g.dir, sizeof(x->g.dir), "user/new/box");
	rig_create(&x->g);
	rig_append(&x->g, 100);
	uint32_t two = rig_append(&x->g, 200);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_annotate(&x->g, two, "/comment", "mine");
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_expunge(&x->g, two);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

static void
random_story(uint32_t minor, int steps)
{
	struct rig_pair *x = rig_pair_open(minor);

	rig_create(&x->g);
	for (int i = 0; i < steps; i++) {
		x->p.in_place = t_rand() % 2;
		x->p.keep = t_rand() % 2;
		rig_random(&x->g);
		if (t_rand() % 3 == 0)
			continue;
		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		RIG_SAME(x);
		/* Twice equals once. */
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_REDO), 0);
		RIG_SAME(x);
		if (t_rand() % 6 == 0) {
			rig_repack(&x->g, t_rand() % 3 ? 0 : minor);
			CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
			RIG_SAME(x);
		}
	}
	rig_pair_close(x);
}

TEST(random_stories_17)
{
	for (int i = 0; i < 6; i++)
		random_story(17, 40);
}

TEST(random_stories_of_all_versions)
{
	static const uint32_t minors[] = { 10, 12, 13, 14, 15, 16, 18, 19, 20 };

	for (size_t i = 0; i < sizeof(minors) / sizeof(minors[0]); i++)
		random_story(minors[i], 20);
}

/* ---- mailboxes of a real server ---- */

/* As a new mailbox, as a repair of one that is not there, and in a rename. */
TEST(mailboxes_of_a_real_server)
{
	static const char *const boxes[] = { "v10", "v12", "v13", "v14", "v15", "v16",
		"v17", "upgraded" };
	char cmd[1500];

	for (size_t i = 0; i < sizeof(boxes) / sizeof(boxes[0]); i++) {
		struct rig_pair *x = rig_pair_open(17);
		struct mbox_fault fault = { .uid = 0 };
		struct mbox_state state;
		uint32_t next;

		snprintf(x->g.dir, sizeof(x->g.dir), "g/user/golden");
		snprintf(cmd, sizeof(cmd),
			"cd %s && mkdir -p %s/%s && "
			"cp -a %s/cyrus.* %s/[1-9]* %s/%s",
			t_golden(), x->root[0], x->g.dir, boxes[i],
			i == 0 ? "v10" : "v17", x->root[0], x->g.dir);
		CHECK_EQ(system(cmd), 0);
		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		CHECK(x->batch.flags == BATCH_CREATE);
		RIG_SAME(x);

		snprintf(cmd, sizeof(cmd), "rm -rf %s/g", x->root[1]);
		CHECK_EQ(system(cmd), 0);
		rig_restart(x);
		batch_fini(&x->batch);
		CHECK_EQ(mbox_repair(x->a, x->g.dir, NULL, NULL, 0, 0, 1000, NULL, NULL,
				 &x->batch, &state, &next, &fault),
			0);
		CHECK_EQ(next, 0);
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
		RIG_SAME(x);

		struct mbox_delta d = { .dir = "g/user/golden/to",
			.from_dir = x->g.dir };
		snprintf(cmd, sizeof(cmd), "cd %s && cp -al %s to && mv to %s",
			x->root[0], x->g.dir, d.dir);
		CHECK_EQ(system(cmd), 0);
		batch_fini(&x->batch);
		CHECK_EQ(mbox_delta(x->a, &d, NULL, 0, &x->batch, &state, &fault), 0);
		memset(&x->p.state, 0, sizeof(x->p.state));
		unsigned fetched = x->p.fetched;
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
		CHECK_EQ(x->p.fetched, fetched);
		CHECK(rig_differ(x->a, d.dir, x->b, d.dir) == NULL);
		rig_pair_close(x);
	}
}

/* ---- crashes ---- */

#define BATCHES 8

struct story {
	struct buf raw[BATCHES];
	size_t n;
};

static int
play(struct rig_pair *x, const struct story *s, size_t i, enum mbox_apply_mode mode)
{
	struct batch b;
	int rc = batch_decode(s->raw[i].data, s->raw[i].len, &b);

	if (rc == 0)
		rc = rig_apply(&x->p, &b, mode);
	batch_fini(&b);
	return rc;
}

/* Redo of everything since the last sync. Only the last one must fit. */
static int
redo(struct rig_pair *x, const struct story *s, size_t last)
{
	int rc = 0;

	for (size_t i = 0; i <= last; i++) {
		rc = play(x, s, i, MBOX_REDO);
		if (rc != 0 && rc != ERR_SUM && rc != ERR_DIVERGED)
			break;
	}
	if (rc != 0)
		printf("# redo: %s: %s: %s\n", err_text(rc), x->p.fault.check,
			x->p.fault.text);
	return rc;
}

/* The peer dies at every single change to its tree, in every batch; all batches are redone; it
 * must be where it would have been. */
static void
crash_everywhere(uint32_t minor, uint32_t then, bool in_place)
{
	struct rig_pair *x = rig_pair_open(minor);
	struct story s = { .n = 0 };
	struct mbox_state states[BATCHES];
	char saved[BATCHES + 1][320];
	long points = 0;

	x->p.in_place = in_place;
	x->p.keep = t_rand() % 2;
	for (int i = 0; i <= BATCHES; i++)
		snprintf(saved[i], sizeof(saved[i]), "%s-saved%d", x->root[1], i);
	/* What the mailbox is at first, applied and synced. */
	rig_create(&x->g);
	for (int i = 0; i < 5; i++)
		rig_random(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_save(x, saved[0]);
	while (s.n < BATCHES) {
		struct batch b;
		if (s.n == BATCHES - 2)
			rig_repack(&x->g, then);
		else
			rig_random(&x->g);
		int rc = rig_delta(&x->g, &s.raw[s.n], &b);
		if (rc == ERR_NOTFOUND)
			continue;
		CHECK_EQ(rc, 0);
		CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
		batch_fini(&b);
		RIG_SAME(x);
		states[s.n] = x->p.state;
		rig_save(x, saved[++s.n]);
	}
	for (size_t k = 0; k < s.n; k++) {
		for (long n = 0;; n++) {
			rig_restore(x, saved[k]);
			memset(&x->p.state, 0, sizeof(x->p.state));
			if (k > 0)
				x->p.state = states[k - 1];
			else if (mbox_load(x->b, x->g.dir, NULL, &x->p.state, NULL) !=
				 0)
				abort();
			spool_set_limit(x->b, n);
			int rc = play(x, &s, k, MBOX_CHECK);
			rig_restart(x);
			if (rc == 0)
				break;
			points++;
			CHECK_EQ(redo(x, &s, s.n - 1), 0);
			RIG_SAME(x);
		}
	}
	printf("# %ld crash points\n", points);
	for (size_t i = 0; i < s.n; i++)
		buf_fini(&s.raw[i]);
	rig_pair_close(x);
}

TEST(a_crash_at_any_write_in_place)
{
	crash_everywhere(17, 0, true);
}

TEST(a_crash_at_any_write_through_copies)
{
	crash_everywhere(17, 0, false);
}

TEST(a_crash_at_any_write_of_an_upgrade)
{
	crash_everywhere(16, 20, true);
}

TEST(a_crash_while_a_mailbox_is_created)
{
	struct rig_pair *x = rig_pair_open(17);
	struct story s = { .n = 1 };
	struct batch b;

	rig_create(&x->g);
	rig_append(&x->g, 50);
	rig_append(&x->g, 60);
	rig_annotate(&x->g, 1, "/comment", "x");
	rig_commit(&x->g);
	CHECK_EQ(rig_delta(&x->g, &s.raw[0], &b), 0);
	batch_fini(&b);
	for (long n = 0;; n++) {
		spool_set_limit(x->b, n);
		int rc = play(x, &s, 0, MBOX_CHECK);
		rig_restart(x);
		CHECK_EQ(redo(x, &s, 0), 0);
		RIG_SAME(x);
		if (rc == 0)
			break;
		char cmd[400];
		snprintf(cmd, sizeof(cmd), "rm -rf %s/user", x->root[1]);
		CHECK_EQ(system(cmd), 0);
		rig_restart(x);
	}
	buf_fini(&s.raw[0]);
	rig_pair_close(x);
}

/* What a power cut may leave of a file that was never synced: nothing, a part, or nothing in it. */
static void
tear(struct rig_pair *x, const char *name, int how)
{
	char path[600];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s/%s", x->root[1], x->g.dir, name);
	if (stat(path, &st) != 0)
		abort();
	if (how == 0 && unlink(path) != 0)
		abort();
	if (how == 1 && truncate(path, 0) != 0)
		abort();
	if (how == 2 && truncate(path, st.st_size / 2) != 0)
		abort();
	if (how == 3 && (truncate(path, 0) != 0 || truncate(path, st.st_size) != 0))
		abort();
}

TEST(what_a_power_cut_tore_of_a_new_mailbox_is_made_anew)
{
	static const char *const files[] = { "cyrus.index", "cyrus.header",
		"cyrus.cache", "cyrus.annotations", "1." };
	struct rig_pair *x = rig_pair_open(17);
	struct story s = { .n = 1 };
	struct batch b;
	char made[320];

	rig_create(&x->g);
	rig_append(&x->g, 50);
	rig_append(&x->g, 60);
	rig_annotate(&x->g, 1, "/comment", "x");
	rig_commit(&x->g);
	CHECK_EQ(rig_delta(&x->g, &s.raw[0], &b), 0);
	batch_fini(&b);
	CHECK_EQ(play(x, &s, 0, MBOX_CHECK), 0);
	RIG_SAME(x);
	snprintf(made, sizeof(made), "%s-made", x->root[1]);
	rig_save(x, made);
	/* None is synced before the spool is: each way of each of Cyrus's three with all others. */
	for (unsigned ways = 0; ways < 5 * 5 * 5; ways++) {
		rig_restore(x, made);
		for (unsigned i = 0, left = ways; i < 3; i++, left /= 5)
			tear(x, files[i], (int)(left % 5));
		tear(x, files[3], (int)(t_rand() % 5));
		tear(x, files[4], (int)(t_rand() % 5));
		CHECK_EQ(redo(x, &s, 0), 0);
		RIG_SAME(x);
	}
	buf_fini(&s.raw[0]);
	rig_pair_close(x);
}

/* A redo of what a later repack has dropped does not ask for a message that nobody has. */
TEST(what_was_purged_is_not_brought_back)
{
	struct rig_pair *x = rig_pair_open(17);
	struct story s = { .n = 0 };
	struct batch b;

	rig_create(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	for (s.n = 0; s.n < 5; s.n++) {
		switch (s.n) {
		case 0:
			rig_append(&x->g, 10);
			rig_append(&x->g, 20);
			break;
		case 1:
			rig_expunge(&x->g, 1);
			break;
		case 2:
			rig_unlink(&x->g, 1);
			break;
		case 3:
			rig_repack(&x->g, 0);
			break;
		default:
			rig_append(&x->g, 30);
			break;
		}
		if (s.n != 3)
			rig_commit(&x->g);
		CHECK_EQ(rig_delta(&x->g, &s.raw[s.n], &b), 0);
		CHECK_EQ(rig_apply(&x->p, &b, MBOX_CHECK), 0);
		batch_fini(&b);
	}
	unsigned fetched = x->p.fetched;
	rig_restart(x);
	CHECK_EQ(redo(x, &s, s.n - 1), 0);
	CHECK_EQ(x->p.fetched, fetched);
	RIG_SAME(x);
	for (size_t i = 0; i < s.n; i++)
		buf_fini(&s.raw[i]);
	rig_pair_close(x);
}

/* ---- what must be refused, and leave the mailbox as it was ---- */

static void
refused(struct rig_pair *x, int want)
{
	struct mbox_state before = x->p.state;

	spool_changes(x->b);
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), want);
	CHECK_EQ(spool_changes(x->b), 0);
	CHECK(memcmp(&before, &x->p.state, sizeof(before)) == 0);
}

TEST(a_batch_that_does_not_fit_changes_nothing)
{
	struct rig_pair *x = rig_pair_open(17);

	rig_create(&x->g);
	rig_append(&x->g, 50);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_flag(&x->g, 1, INDEX_FLAG_SEEN);
	rig_commit(&x->g);
	batch_fini(&x->batch);
	CHECK_EQ(rig_delta(&x->g, &x->raw, &x->batch), 0);
	struct change_record *r = &x->batch.changes[0].u.record;

	x->batch.before.lo++;
	refused(x, ERR_DIVERGED);
	x->batch.before.lo--;
	x->batch.after.hi ^= 1;
	refused(x, ERR_SUM);
	x->batch.after.hi ^= 1;
	r->r.flags ^= INDEX_FLAG_FLAGGED;
	refused(x, ERR_SUM);
	r->r.flags ^= INDEX_FLAG_FLAGGED;
	r->r.uid = 7;
	refused(x, ERR_DIVERGED);
	r->r.uid = 1;
	x->batch.sync_basic ^= 1;
	refused(x, ERR_SUM);
	CHECK_STR(x->p.fault.check, "sync-basic");
	CHECK_EQ(err_consequence(ERR_SUM), ERR_DO_REPAIR);
	x->batch.sync_basic ^= 1;
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

TEST(another_guid_is_never_expunged)
{
	struct rig_pair *x = rig_pair_open(17);

	rig_create(&x->g);
	rig_append(&x->g, 50);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_expunge(&x->g, 1);
	rig_commit(&x->g);
	batch_fini(&x->batch);
	CHECK_EQ(rig_delta(&x->g, &x->raw, &x->batch), 0);
	struct change_record *r = &x->batch.changes[0].u.record;
	CHECK((r->mask & CHANGE_RECORD_GUID) != 0);
	r->r.guid[3] ^= 1;
	refused(x, ERR_DIVERGED);
	r->r.guid[3] ^= 1;
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

TEST(a_file_changed_behind_our_back_is_noticed)
{
	struct rig_pair *x = rig_pair_open(17);
	uint8_t byte;
	int fd;

	rig_create(&x->g);
	rig_append(&x->g, 50);
	rig_append(&x->g, 50);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	rig_flag(&x->g, 1, INDEX_FLAG_SEEN);
	rig_commit(&x->g);
	batch_fini(&x->batch);
	CHECK_EQ(rig_delta(&x->g, &x->raw, &x->batch), 0);
	/* The record that the batch touches. */
	CHECK_EQ(spool_file(x->b, x->g.dir, "cyrus.index", O_RDWR, 0, &fd), 0);
	CHECK_EQ(pread(fd, &byte, 1, 160 + 40), 1);
	byte ^= 1;
	CHECK_EQ(pwrite(fd, &byte, 1, 160 + 40), 1);
	refused(x, ERR_CHECKSUM);
	byte ^= 1;
	CHECK_EQ(pwrite(fd, &byte, 1, 160 + 40), 1);
	close(fd);
	CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* A power cut left the name that an earlier life kept, and not its bytes. */
TEST(a_torn_body_that_was_kept_is_not_used)
{
	struct rig_pair *x = rig_pair_open(17);
	char hex[2 * SHA1_LEN + 1];

	rig_create(&x->g);
	rig_append(&x->g, 50);
	rig_commit(&x->g);
	hash_hex(x->g.rec[0].guid, SHA1_LEN, hex);
	CHECK_EQ(spool_replace(x->b, ".twinspool/kept", hex, "", 0, 0600, geteuid(),
			 getegid()),
		0);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(x->p.fetched, 1);
	RIG_SAME(x);
	rig_pair_close(x);
}

T_MAIN
