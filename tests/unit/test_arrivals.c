/* The log of what a standby received: read back after a crash, whatever the crash left of it. */
#include "sync/arrivals.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROWS_MAX = 4096 };

/* What a load has found. */
struct got {
	uint64_t rows[ROWS_MAX];
	size_t n_rows, n_bodies;
	uint64_t body_of; /* seq in the last body */
	bool wrong;
};

static char dir[200];

static void
body_for(uint64_t seq, uint8_t *p, size_t n, uint8_t guid[SHA1_LEN])
{
	memset(p, (int)(seq & 0xff), n);
	memcpy(p, &seq, sizeof(seq));
	hash_sha1(p, n, guid);
}

static int
on_body(void *arg, const uint8_t guid[SHA1_LEN], const void *p, size_t n)
{
	struct got *g = arg;
	uint8_t found[SHA1_LEN];

	hash_sha1(p, n, found);
	g->wrong |= memcmp(found, guid, SHA1_LEN) != 0;
	memcpy(&g->body_of, p, sizeof(g->body_of));
	g->n_bodies++;
	return 0;
}

static int
on_row(void *arg, const struct inbox_item *item)
{
	struct got *g = arg;
	char text[40];

	snprintf(text, sizeof(text), "row %" PRIu64, item->pos.seq);
	g->wrong |= strcmp(item->dir, "user/x") != 0 || item->n != strlen(text) ||
		    memcmp(item->bytes, text, item->n) != 0 || item->pos.epoch != 1 ||
		    item->pos.run != 2;
	/* Its body came just before it. */
	g->wrong |= g->body_of != item->pos.seq;
	if (g->n_rows < ROWS_MAX)
		g->rows[g->n_rows++] = item->pos.seq;
	return 0;
}

static const struct arrivals_found found = { NULL, on_body, on_row };

static struct pos
at(uint64_t seq)
{
	return (struct pos){ 1, 2, seq };
}

static void
add(struct arrivals *a, uint64_t seq, size_t body)
{
	uint8_t *p = malloc(body), guid[SHA1_LEN];
	char text[40];
	struct inbox_item item = { at(seq), "user/x", text, 0 };

	body_for(seq, p, body, guid);
	arrivals_body(a, guid, p, body);
	item.n = (size_t)snprintf(text, sizeof(text), "row %" PRIu64, seq);
	arrivals_row(a, &item);
	free(p);
}

static struct arrivals *
opened(uint64_t applied, struct got *g)
{
	struct arrivals *a = NULL;

	memset(g, 0, sizeof(*g));
	if (arrivals_open(dir, &a) != 0 ||
		arrivals_load(a, at(applied), &found, g) != 0)
		t_fail(__FILE__, __LINE__, "the log cannot be opened");
	return a;
}

static void
begin(void)
{
	snprintf(dir, sizeof(dir), "%s", t_tmpdir());
}

TEST(what_was_synced_comes_back)
{
	struct got g;
	begin();
	struct arrivals *a = opened(0, &g);

	CHECK_EQ(g.n_rows, 0);
	for (uint64_t seq = 1; seq <= 100; seq++) {
		add(a, seq, 500);
		if (seq % 10 == 0)
			CHECK_EQ(arrivals_sync(a), 0);
	}
	arrivals_close(a);
	a = opened(0, &g);
	CHECK_EQ(g.n_rows, 100);
	CHECK_EQ(g.n_bodies, 100);
	CHECK(!g.wrong);
	arrivals_close(a);
	/* Only what is above, and only its bodies. */
	a = opened(95, &g);
	CHECK_EQ(g.n_rows, 5);
	CHECK_EQ(g.n_bodies, 5);
	CHECK_EQ(g.rows[0], 96);
	/* It goes on behind what was there. */
	add(a, 101, 500);
	CHECK_EQ(arrivals_sync(a), 0);
	arrivals_close(a);
	a = opened(95, &g);
	CHECK_EQ(g.n_rows, 6);
	CHECK_EQ(g.rows[5], 101);
	CHECK(!g.wrong);
	arrivals_close(a);
}

TEST(pieces_are_used_again_and_never_too_early)
{
	struct arrivals_facts f;
	uint64_t applied = 0, seq = 0;
	struct got g;
	begin();
	struct arrivals *a = opened(0, &g);

	/* 200 MB of it, with at most 30 rows of 100 KB not recorded. */
	while (seq < 2000) {
		for (unsigned k = 0; k < 1 + t_rand() % 20; k++)
			add(a, ++seq, 100000);
		CHECK_EQ(arrivals_sync(a), 0);
		if (seq > applied + 30)
			applied = seq - 30 + t_rand() % 30;
		arrivals_trim(a, at(applied));
		if (t_rand() % 20 == 0) {
			arrivals_close(a);
			a = opened(applied, &g);
			CHECK(!g.wrong);
			CHECK_EQ(g.n_rows, seq - applied);
			CHECK_EQ(g.rows[0], applied + 1);
			CHECK_EQ(g.rows[g.n_rows - 1], seq);
			CHECK_EQ(g.n_bodies, g.n_rows);
		}
	}
	arrivals_facts(a, &f);
	CHECK(f.size < 64 << 20);
	arrivals_close(a);
}

/* The newest piece, cut or damaged anywhere: what is before the damage is there, nothing is
 * made up. */
TEST(a_torn_end)
{
	struct got g;

	for (unsigned round = 0; round < 40; round++) {
		char path[260];
		struct stat st;
		begin();
		snprintf(dir + strlen(dir), 20, "/r%u", round);
		CHECK_EQ(mkdir(dir, 0700), 0);
		struct arrivals *a = opened(0, &g);
		for (uint64_t seq = 1; seq <= 50; seq++)
			add(a, seq, 20 + (size_t)(t_rand() % 300));
		CHECK_EQ(arrivals_sync(a), 0);
		arrivals_close(a);
		snprintf(path, sizeof(path), "%s/arrivals.0", dir);
		int fd = open(path, O_RDWR);
		CHECK(fd >= 0);
		CHECK_EQ(fstat(fd, &st), 0);
		if (round % 2 == 0) {
			CHECK_EQ(ftruncate(fd, (off_t)(t_rand() % 10000)), 0);
		} else {
			uint8_t byte;
			off_t where = (off_t)(t_rand() % 10000);
			CHECK_EQ(pread(fd, &byte, 1, where), 1);
			byte ^= (uint8_t)(1u << t_rand() % 8);
			CHECK_EQ(pwrite(fd, &byte, 1, where), 1);
		}
		close(fd);
		a = opened(0, &g);
		CHECK(!g.wrong);
		for (size_t i = 0; i < g.n_rows; i++)
			CHECK_EQ(g.rows[i], i + 1);
		CHECK(g.n_bodies == g.n_rows || g.n_bodies == g.n_rows + 1);
		/* What comes now is not lost behind the damage. */
		uint64_t next = g.n_rows + 1;
		add(a, next, 100);
		CHECK_EQ(arrivals_sync(a), 0);
		arrivals_close(a);
		a = opened(next - 1, &g);
		CHECK_EQ(g.n_rows, 1);
		CHECK_EQ(g.rows[0], next);
		arrivals_close(a);
	}
}

TEST(a_body_without_its_row)
{
	uint8_t p[300], guid[SHA1_LEN];
	struct got g;
	begin();
	struct arrivals *a = opened(0, &g);

	add(a, 1, 100);
	/* One that was asked for, and one whose session ended. */
	body_for(7, p, sizeof(p), guid);
	arrivals_body(a, guid, p, sizeof(p));
	arrivals_cut(a);
	CHECK_EQ(arrivals_sync(a), 0);
	arrivals_close(a);
	a = opened(0, &g);
	CHECK_EQ(g.n_bodies, 2);
	CHECK_EQ(g.n_rows, 1);
	arrivals_close(a);
	/* Nobody waits for it when all rows are recorded. */
	a = opened(1, &g);
	CHECK_EQ(g.n_bodies, 0);
	arrivals_close(a);
}

/* Positions may begin anew below what they were: what was then must not come back. */
TEST(forgotten)
{
	struct got g;
	begin();
	struct arrivals *a = opened(0, &g);

	for (uint64_t seq = 1000; seq <= 1100; seq++)
		add(a, seq, 200000);
	CHECK_EQ(arrivals_sync(a), 0);
	CHECK_EQ(arrivals_forget(a), 0);
	for (uint64_t seq = 1; seq <= 3; seq++)
		add(a, seq, 100);
	CHECK_EQ(arrivals_sync(a), 0);
	arrivals_close(a);
	a = opened(0, &g);
	CHECK_EQ(g.n_rows, 3);
	CHECK_EQ(g.rows[0], 1);
	CHECK(!g.wrong);
	arrivals_close(a);
}

T_MAIN
