/*
 * test_repair.c - a mailbox compared by digests and cured, in one piece or many, whatever became
 * of the peer's.
 *
 * What dies here is the process, never the machine: fdatasync is this program's own and does
 * nothing, see test_apply.c.
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

int
fdatasync(int fd)
{
	(void)fd;
	return 0;
}

static struct rig_pair *
story(uint32_t minor, int steps)
{
	struct rig_pair *x = rig_pair_open(minor);

	rig_create(&x->g);
	for (int i = 0; i < steps; i++)
		rig_random(&x->g);
	return x;
}

struct digests {
	struct mbox_digest list[RIG_MAX];
	size_t n;
};

static int
add_digest(void *arg, const struct mbox_digest *one)
{
	struct digests *d = arg;

	d->list[d->n++] = *one;
	return 0;
}

static int
repair(struct rig_pair *x, size_t limit, unsigned *pieces)
{
	struct digests *d = calloc(1, sizeof(*d));
	struct mbox_fault fault = { .uid = 0 };
	uint32_t from = 0;
	int rc = mbox_digests(x->b, x->g.dir, false, add_digest, d);

	if (rc == ERR_NOTFOUND || rc == ERR_MANGLED || rc == ERR_CHECKSUM)
		rc = 0;
	*pieces = 0;
	do {
		struct batch b;
		if (rc == 0)
			rc = mbox_repair(x->a, x->g.dir, NULL, d->list, d->n, from,
				limit, NULL, NULL, &b, &x->g.state, &from, &fault);
		if (rc != 0)
			break;
		buf_clear(&x->raw);
		batch_fini(&x->batch);
		rc = batch_encode(&b, &x->raw);
		batch_fini(&b);
		if (rc == 0)
			rc = batch_decode(x->raw.data, x->raw.len, &x->batch);
		if (rc == 0)
			rc = rig_apply(&x->p, &x->batch, MBOX_CHECK);
		++*pieces;
		/* Half repaired it can be opened, and adds up. */
		struct scan s;
		if (rc == 0 &&
			scan_open(x->b, x->g.dir, SCAN_STRICT, NULL, &s, &fault) == 0) {
			const char *wrong = scan_tally_check(&s.tally, &s.ix.h);
			if (wrong == NULL && !sum_eq(mbox_sum_total(&s.sum),
						     mbox_sum_total(&x->p.state.sum)))
				wrong = "state";
			if (wrong != NULL) {
				printf("# after piece %u: %s\n", *pieces, wrong);
				rc = ERR_SUM;
			}
			scan_close(&s);
		} else if (rc == 0) {
			rc = ERR_MANGLED;
		}
	} while (rc == 0 && from != 0);
	free(d);
	return rc;
}

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

TEST(repair_makes_any_mailbox_ours)
{
	for (int round = 0; round < 24; round++) {
		struct rig_pair *x = story(round % 5 == 4 ? 16 : 17, 10);
		unsigned pieces;
		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		/* Ours goes on without the peer... */
		for (int i = 0; i < 5; i++)
			rig_random(&x->g);
		if (round % 3 == 0)
			rig_repack(&x->g, 0);
		/* ...and the peer is damaged. */
		uint32_t n = x->p.state.header.num_records;
		switch (n > 0 ? round % 4 : 0) {
		case 1:
			rewrite_byte(x->b, x->g.dir, "cyrus.index",
				160 + 112 * (off_t)(t_rand() % n) + 3);
			break;
		case 2:
			rewrite_byte(x->b, x->g.dir, "cyrus.index", 20);
			break;
		case 3:
			CHECK_EQ(spool_unlink(x->b, x->g.dir, "cyrus.header"), 0);
			break;
		}
		CHECK_EQ(repair(x, round % 2 ? 1000 : 3, &pieces), 0);
		RIG_SAME(x);
		rig_pair_close(x);
	}
}

/* Two more messages there, under the next UIDs. */
static uint32_t
peer_goes_on(struct rig_pair *x, uint8_t guids[2][SHA1_LEN])
{
	struct rig other = x->g;

	other.sp = x->b;
	other.old_index = NULL;
	uint32_t uid = rig_append(&other, 33);
	rig_append(&other, 34);
	for (int i = 0; i < 2; i++)
		memcpy(guids[i], other.rec[other.h.num_records - 2 + i].guid, SHA1_LEN);
	rig_commit(&other);
	return uid;
}

static int
lacks(struct rig_pair *x, bool forked, struct mbox_fault *fault)
{
	struct digests *d = calloc(1, sizeof(*d));

	if (mbox_digests(x->b, x->g.dir, false, add_digest, d) != 0)
		abort();
	memset(fault, 0, sizeof(*fault));
	int rc = mbox_lacks(x->a, x->g.dir, d->list, d->n, forked, fault);
	free(d);
	return rc;
}

TEST(repair_keeps_what_only_the_peer_had)
{
	struct rig_pair *x = story(17, 3);
	uint8_t guids[2][SHA1_LEN];
	struct mbox_fault fault;
	unsigned pieces;
	int fd;

	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(lacks(x, true, &fault), 0);
	uint32_t uid = peer_goes_on(x, guids);
	CHECK_EQ(lacks(x, false, &fault), ERR_MORE);
	CHECK_EQ(fault.uid, uid);
	/* Given away here, and gone again. */
	for (int i = 0; i < 2; i++)
		CHECK_EQ(rig_append(&x->g, 44), uid + i);
	rig_commit(&x->g);
	for (uint32_t i = 0; i < 2; i++)
		rig_expunge(&x->g, uid + i);
	rig_commit(&x->g);
	for (uint32_t i = 0; i < 2; i++)
		rig_unlink(&x->g, uid + i);
	rig_commit(&x->g);
	rig_repack(&x->g, 0);
	CHECK_EQ(lacks(x, false, &fault), 0);
	CHECK_EQ(lacks(x, true, &fault), ERR_MORE);
	CHECK_EQ(fault.uid, uid);
	CHECK_EQ(repair(x, 1000, &pieces), 0);
	RIG_SAME(x);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(spool_kept_open(x->b, guids[i], &fd), 0);
		close(fd);
	}
	rig_pair_close(x);
}

TEST(another_message_under_a_uid_is_no_repair)
{
	struct rig_pair *x = story(17, 3);
	uint8_t guids[2][SHA1_LEN];
	struct mbox_fault fault;
	unsigned pieces;
	char saved[320], cmd[1100];

	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	uint32_t uid = peer_goes_on(x, guids);
	for (int i = 0; i < 3; i++)
		rig_append(&x->g, 44);
	rig_commit(&x->g);
	CHECK_EQ(lacks(x, false, &fault), ERR_MORE);
	CHECK_EQ(fault.uid, uid);
	snprintf(saved, sizeof(saved), "%s-saved", x->root[1]);
	rig_save(x, saved);
	CHECK_EQ(repair(x, 1000, &pieces), ERR_MORE);
	CHECK_EQ(x->p.fault.uid, uid);
	CHECK_STR(x->p.fault.check, "has-more");
	snprintf(cmd, sizeof(cmd), "diff -r %s/%s %s/%s", x->root[1], x->g.dir, saved,
		x->g.dir);
	CHECK_EQ(system(cmd), 0);
	rig_pair_close(x);
}

TEST(a_change_that_only_the_peer_has_is_more)
{
	struct rig_pair *x = story(17, 3);
	struct mbox_fault fault;

	uint32_t uid = rig_append(&x->g, 44);
	rig_append(&x->g, 44);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	struct rig other = x->g;
	other.sp = x->b;
	other.old_index = NULL;
	rig_flag(&other, uid, 1);
	rig_commit(&other);
	rig_flag(&x->g, uid + 1, 1);
	rig_commit(&x->g);
	CHECK_EQ(lacks(x, false, &fault), ERR_MORE);
	CHECK_EQ(fault.uid, uid);
	rig_pair_close(x);
}

TEST(repair_brings_back_a_message_that_is_missing)
{
	struct rig_pair *x = story(17, 1);
	unsigned pieces;

	for (int i = 0; i < 4; i++)
		rig_append(&x->g, 100);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	char name[SCAN_BODY_NAME];
	scan_body_name(x->g.h.last_uid, name);
	CHECK_EQ(spool_unlink(x->b, x->g.dir, name), 0);
	scan_body_name(x->g.h.last_uid - 1, name);
	CHECK_EQ(spool_replace(x->b, x->g.dir, name, "cut", 3, 0600, 0, 0), 0);
	unsigned fetched = x->p.fetched;
	CHECK_EQ(repair(x, 1000, &pieces), 0);
	CHECK_EQ(x->p.fetched, fetched + 2);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* The other side has purged it: it is to go here as well, whatever became of its message. */
TEST(repair_purges_a_record_whose_message_is_missing)
{
	struct rig_pair *x = story(17, 1);
	char name[SCAN_BODY_NAME];
	unsigned pieces;

	for (int i = 0; i < 4; i++)
		rig_append(&x->g, 100);
	rig_commit(&x->g);
	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	uint32_t uid = x->g.h.last_uid - 1;
	rig_expunge(&x->g, uid);
	rig_unlink(&x->g, uid);
	rig_commit(&x->g);
	rig_repack(&x->g, 0);
	scan_body_name(uid, name);
	CHECK_EQ(spool_replace(x->b, x->g.dir, name, "cut", 3, 0600, 0, 0), 0);
	CHECK_EQ(repair(x, 1000, &pieces), 0);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* The peer dies at every change that a repair makes, of a sound mailbox and of damaged ones. */
TEST(a_crash_at_any_write_of_a_repair)
{
	for (int damage = 0; damage < 4; damage++) {
		struct rig_pair *x = story(17, 8);
		struct digests *d = calloc(1, sizeof(*d));
		struct buf raw = BUF_INIT;
		struct batch b;
		char saved[320];
		uint32_t next;
		long n = 0;
		int rc;

		CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
		for (int i = 0; i < 5; i++)
			rig_random(&x->g);
		rig_repack(&x->g, 0);
		if (damage == 1)
			rewrite_byte(x->b, x->g.dir, "cyrus.index", 160 + 3);
		else if (damage == 2)
			rewrite_byte(x->b, x->g.dir, "cyrus.index", 20);
		else if (damage == 3)
			CHECK_EQ(spool_unlink(x->b, x->g.dir, "cyrus.index"), 0);
		(void)mbox_digests(x->b, x->g.dir, false, add_digest, d);
		CHECK_EQ(mbox_repair(x->a, x->g.dir, NULL, d->list, d->n, 0, 1000, NULL,
				 NULL, &b, &x->g.state, &next, NULL),
			0);
		CHECK_EQ(batch_encode(&b, &raw), 0);
		batch_fini(&b);
		CHECK_EQ(batch_decode(raw.data, raw.len, &b), 0);
		snprintf(saved, sizeof(saved), "%s-saved", x->root[1]);
		rig_save(x, saved);
		do {
			rig_restore(x, saved);
			spool_set_limit(x->b, n++);
			rc = rig_apply(&x->p, &b, MBOX_CHECK);
			rig_restart(x);
			CHECK_EQ(rig_apply(&x->p, &b, MBOX_REDO), 0);
			RIG_SAME(x);
		} while (rc != 0);
		CHECK(n > 5);
		batch_fini(&b);
		buf_fini(&raw);
		free(d);
		rig_pair_close(x);
	}
}

TEST(equal_mailboxes_cost_one_small_piece)
{
	struct rig_pair *x = story(17, 10);
	unsigned pieces;

	CHECK_EQ(rig_step(x, MBOX_CHECK), 0);
	CHECK_EQ(repair(x, 10, &pieces), 0);
	CHECK_EQ(pieces, 1);
	for (size_t i = 0; i < x->batch.n; i++)
		CHECK(x->batch.changes[i].kind != CHANGE_RECORD);
	RIG_SAME(x);
	rig_pair_close(x);
}

/* Bytes that this process has read so far. */
static unsigned long long
bytes_read(void)
{
	unsigned long long n = 0;
	FILE *f = fopen("/proc/self/io", "r");

	if (f == NULL || fscanf(f, "rchar: %llu", &n) != 1)
		abort();
	fclose(f);
	return n;
}

struct cost {
	unsigned pieces;
	unsigned long long stated, applied; /* bytes read */
};

/* All pieces that state a whole mailbox of 590 messages to a peer that has none of it. */
static void
cost_of_pieces(size_t limit, struct cost *out)
{
	struct rig_pair *x = story(17, 1);
	struct cost c = { .pieces = 0 };
	uint32_t from = 0;

	while (x->g.h.num_records < 590)
		rig_append(&x->g, 10);
	rig_commit(&x->g);
	x->p.in_place = true;
	do {
		struct batch b;
		unsigned long long at = bytes_read();
		if (mbox_repair(x->a, x->g.dir, NULL, NULL, 0, from, limit, NULL, NULL,
			    &b, &x->g.state, &from, NULL) != 0)
			abort();
		c.stated += bytes_read() - at;
		at = bytes_read();
		if (rig_apply(&x->p, &b, MBOX_CHECK) != 0)
			abort();
		c.applied += bytes_read() - at;
		batch_fini(&b);
		c.pieces++;
	} while (from != 0);
	*out = c;
	RIG_SAME(x);
	rig_pair_close(x);
}

TEST(pieces_do_not_read_the_mailbox_again)
{
	struct cost one, many;
	unsigned long long all_records = 590ull * index_record_size(17);

	cost_of_pieces(1000, &one);
	cost_of_pieces(10, &many);
	CHECK_EQ(one.pieces, 1);
	CHECK_EQ(many.pieces, 59);
	printf("# bytes read: %llu and %llu in one piece, %llu and %llu in %u\n",
		one.stated, one.applied, many.stated, many.applied, many.pieces);
	/* Most of it are the cache's records, which are read once in any case. */
	CHECK(many.stated < one.stated + 4 * all_records);
	/* The peer looks for a place for each record, reads back what it wrote, and in the end
	 * everything once. */
	CHECK(many.applied < one.applied + 8 * all_records);
}

TEST(digests_out_of_order_are_refused)
{
	struct rig_pair *x = story(17, 1);
	struct mbox_digest d[2] = { { .uid = 2 }, { .uid = 2 } };
	struct mbox_state s;
	struct batch b;
	uint32_t next;

	CHECK_EQ(mbox_repair(x->a, x->g.dir, NULL, d, 2, 0, 10, NULL, NULL, &b, &s,
			 &next, NULL),
		ERR_PROTO);
	rig_pair_close(x);
}

T_MAIN
