/*
 * test_apply.c - delta and apply are inverse: whatever Cyrus does to a mailbox, the batch made of
 * it brings a copy to the same state.
 */
#include "meta/mbox.h"

#include "meta/base/err.h"
#include "meta/scan.h"
#include "tests/lib/rig.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>

/* One mailbox, its peer, and the bytes of the last batch. */
struct pair {
	struct spool *a, *b;
	struct rig g;
	struct rig_peer p;
	struct buf raw;
	struct batch batch;
};

static struct pair *
pair_open(uint32_t minor)
{
	struct pair *x = calloc(1, sizeof(*x));
	static unsigned count;
	char path[300];

	for (int side = 0; side < 2; side++) {
		snprintf(path, sizeof(path), "%s/%u%c", t_tmpdir(), count, 'a' + side);
		if (mkdir(path, 0755) != 0 ||
			spool_open(path, side == 0 ? &x->a : &x->b) != 0)
			abort();
	}
	count++;
	rig_init(&x->g, x->a, "user/rig/box", "abcdefgh", minor);
	rig_peer_init(&x->p, x->b, x->a);
	batch_init(&x->batch);
	return x;
}

static void
pair_close(struct pair *x)
{
	batch_fini(&x->batch);
	buf_fini(&x->raw);
	rig_fini(&x->g);
	spool_close(x->a);
	spool_close(x->b);
	free(x);
}

static int
delta(struct pair *x)
{
	batch_fini(&x->batch);
	return rig_delta(&x->g, &x->raw, &x->batch);
}

static int
step(struct pair *x, enum mbox_apply_mode mode)
{
	int rc = delta(x);

	if (rc == ERR_NOTFOUND)
		return 0;
	if (rc == 0)
		rc = rig_apply(&x->p, &x->batch, mode);
	if (rc != 0)
		printf("# %s: %s: %s\n", err_text(rc), x->p.fault.check,
			x->p.fault.text);
	return rc;
}

static const char *
differ(struct pair *x)
{
	return rig_differ(x->a, x->g.dir, x->b, x->g.dir);
}

#define CHECK_SAME(x) \
	do { \
		const char *wrong = differ(x); \
		if (wrong != NULL) { \
			t_fail(__FILE__, __LINE__, "they differ: %s", wrong); \
			return; \
		} \
		CHECK(sum_eq(mbox_sum_total(&(x)->g.state.sum), \
			mbox_sum_total(&(x)->p.state.sum))); \
	} while (0)

TEST(a_mailbox_is_created)
{
	struct pair *x = pair_open(17);

	rig_create(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	CHECK(x->batch.flags == BATCH_CREATE);
	pair_close(x);
}

TEST(append_flag_expunge_unlink_repack)
{
	struct pair *x = pair_open(17);

	rig_create(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	uint32_t one = rig_append(&x->g, 100), two = rig_append(&x->g, 200);
	rig_commit(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	CHECK_EQ(x->p.fetched, 2);
	rig_flag(&x->g, one, INDEX_FLAG_SEEN);
	rig_commit(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	rig_keyword(&x->g, two, "Junk");
	rig_annotate(&x->g, two, "/comment", "hello");
	rig_commit(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	rig_expunge(&x->g, one);
	rig_commit(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	rig_unlink(&x->g, one);
	rig_commit(&x->g);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	rig_repack(&x->g, 0);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	CHECK_EQ(x->p.state.header.num_records, 1);
	rig_repack(&x->g, 20);
	CHECK_EQ(step(x, MBOX_CHECK), 0);
	CHECK_SAME(x);
	CHECK_EQ(x->p.state.header.minor_version, 20);
	pair_close(x);
}

static void
random_story(uint32_t minor, int steps)
{
	struct pair *x = pair_open(minor);

	rig_create(&x->g);
	for (int i = 0; i < steps; i++) {
		x->p.in_place = t_rand() % 2;
		x->p.keep = t_rand() % 2;
		rig_random(&x->g);
		if (t_rand() % 3 == 0)
			continue;
		CHECK_EQ(step(x, MBOX_CHECK), 0);
		CHECK_SAME(x);
		/* Twice equals once. */
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_CHECK), 0);
		CHECK_EQ(rig_apply(&x->p, &x->batch, MBOX_REDO), 0);
		CHECK_SAME(x);
		if (t_rand() % 6 == 0) {
			rig_repack(&x->g, t_rand() % 3 ? 0 : minor);
			CHECK_EQ(step(x, MBOX_CHECK), 0);
			CHECK_SAME(x);
		}
	}
	pair_close(x);
}

TEST(random_stories_17)
{
	for (int i = 0; i < 6; i++)
		random_story(17, 40);
}

TEST(random_stories_of_all_versions)
{
	static const uint32_t minors[] = { 12, 13, 14, 15, 16, 18, 19, 20 };

	for (size_t i = 0; i < sizeof(minors) / sizeof(minors[0]); i++)
		random_story(minors[i], 20);
}

T_MAIN
