#include "meta/spool.h"
#include "sync/kept.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct spool *
spool_of_one_file(void)
{
	struct spool *sp;

	if (spool_open(t_tmpdir(), &sp) != 0 ||
		spool_mkdirs(sp, "box", 0700, 8, 8) != 0 ||
		spool_replace(sp, "box", "1.", "mail", 4, 0600, 8, 8) != 0)
		abort();
	return sp;
}

static const uint8_t *
guid(uint32_t n)
{
	static uint8_t g[SHA1_LEN];

	hash_sha1(&n, sizeof(n), g);
	return g;
}

static bool
is_kept(struct spool *sp, uint32_t n)
{
	int fd;

	if (spool_kept_open(sp, guid(n), &fd) != 0)
		return false;
	close(fd);
	return true;
}

TEST(a_body_goes_with_its_last_confirmation)
{
	struct spool *sp = spool_of_one_file();
	struct kept *k;

	CHECK_EQ(kept_open(sp, 0, &k), 0);
	CHECK_EQ(kept_add(k, guid(1), "box", "1.", 5), 0);
	CHECK_EQ(kept_add(k, guid(2), "box", "1.", 6), 0);
	CHECK_EQ(kept_add(k, guid(1), "box", "1.", 7), 0);
	kept_release(k, 4);
	CHECK(is_kept(sp, 1) && is_kept(sp, 2));
	kept_release(k, 6);
	CHECK(is_kept(sp, 1) && !is_kept(sp, 2));
	kept_release(k, 7);
	CHECK(!is_kept(sp, 1));
	CHECK_EQ(kept_add(k, guid(1), "box", "1.", 8), 0);
	kept_close(k);
	/* another life: what the one before kept is confirmed with its whole journal */
	CHECK_EQ(kept_open(sp, 9, &k), 0);
	kept_release(k, 8);
	CHECK(is_kept(sp, 1));
	/* no peer holds a place in the journal any more */
	kept_release(k, UINT64_MAX);
	CHECK(!is_kept(sp, 1));
	kept_close(k);
	spool_close(sp);
}

/* How often an entry is looked at must not grow with how many there are. */
TEST(a_release_looks_at_what_it_drops)
{
	enum { MANY = 20000 };
	struct spool *sp = spool_of_one_file();
	struct kept *k;

	CHECK_EQ(kept_open(sp, 0, &k), 0);
	for (uint32_t i = 1; i <= MANY; i++)
		CHECK_EQ(kept_add(k, guid(i), "box", "1.", i), 0);
	for (uint32_t i = 1; i <= MANY; i += 100)
		kept_release(k, i);
	while (kept_release(k, MANY) > 0)
		continue;
	printf("# %d kept and released: %llu looks\n", MANY,
		(unsigned long long)kept_looks(k));
	CHECK(kept_looks(k) <= 4 * MANY);
	CHECK(!is_kept(sp, MANY));
	kept_close(k);
	spool_close(sp);
}

/* A stamp is an estimate of rows that may turn out not to be: once nothing is queued any more, the
 * journal's end is all that there is to wait for. */
TEST(a_stamp_beyond_the_journal_waits_for_no_later_row)
{
	struct spool *sp = spool_of_one_file();
	struct kept *k;

	CHECK_EQ(kept_open(sp, 0, &k), 0);
	CHECK_EQ(kept_add(k, guid(1), "box", "1.", 9), 0);
	uint64_t mark = kept_mark(k);
	/* kept while that was found out: of a row that is queued */
	CHECK_EQ(kept_add(k, guid(2), "box", "1.", 8), 0);
	kept_clamp(k, mark, 7);
	kept_release(k, 6);
	CHECK(is_kept(sp, 1) && is_kept(sp, 2));
	kept_release(k, 7);
	CHECK(!is_kept(sp, 1) && is_kept(sp, 2));
	/* one that is kept again is a new one */
	mark = kept_mark(k);
	CHECK_EQ(kept_add(k, guid(2), "box", "1.", 9), 0);
	kept_clamp(k, mark, 8);
	kept_release(k, 8);
	CHECK(is_kept(sp, 2));
	kept_release(k, 9);
	CHECK(!is_kept(sp, 2));
	kept_close(k);
	spool_close(sp);
}

/* All at once, for the peer thread has more to do and requests add while it does this. */
TEST(many_go_in_several_calls)
{
	enum { MANY = 20000 };
	struct spool *sp = spool_of_one_file();
	struct kept *k;
	unsigned calls = 0, most = 0, left = MANY;

	CHECK_EQ(kept_open(sp, 0, &k), 0);
	for (uint32_t i = 1; i <= MANY; i++)
		CHECK_EQ(kept_add(k, guid(i), "box", "1.", i), 0);
	while (left > 0 && calls++ < MANY) {
		unsigned gone = kept_release(k, MANY);
		most = gone > most ? gone : most;
		left -= gone;
	}
	CHECK_EQ(left, 0);
	CHECK(most <= KEPT_AT_ONCE);
	CHECK(calls <= MANY / KEPT_AT_ONCE + 1);
	CHECK(!is_kept(sp, 1) && !is_kept(sp, MANY));
	kept_close(k);
	spool_close(sp);
}

TEST(a_standby_keeps_for_a_time)
{
	struct spool *sp = spool_of_one_file();

	CHECK_EQ(spool_keep(sp, guid(1), "box", "1."), 0);
	CHECK_EQ(kept_expire(sp, 60000), 0);
	CHECK(is_kept(sp, 1));
	usleep(30000);
	CHECK_EQ(kept_expire(sp, 10), 1);
	CHECK(!is_kept(sp, 1));
	spool_close(sp);
}

T_MAIN
