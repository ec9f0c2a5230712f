/* Counters: counted once each, kept by the memory that they lie in, rendered as Prometheus text. */
#include "fs/stats.h"
#include "meta/base/disk.h"
#include "sync/store.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *
count(void *arg)
{
	(void)arg;
	for (int i = 0; i < 10000; i++) {
		stats_request(FUSE_WRITE);
		stats_add(STATS_WRITE_BYTES, 3);
	}
	return NULL;
}

TEST(counts_from_many_threads)
{
	struct stats_shared *sh = calloc(1, stats_shared_size());
	pthread_t t[4];

	CHECK(sh != NULL);
	stats_start(sh);
	for (int i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, count, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(stats_requests(FUSE_WRITE), 40000);
	CHECK_EQ(stats_get(STATS_WRITE_BYTES), 120000);
	/* the next server goes on from there */
	stats_start(NULL);
	stats_request(FUSE_WRITE);
	CHECK_EQ(stats_requests(FUSE_WRITE), 0);
	stats_start(sh);
	stats_request(FUSE_WRITE);
	CHECK_EQ(stats_requests(FUSE_WRITE), 40001);
	stats_start(NULL);
	free(sh);
}

TEST(unknown_kinds_have_one_row)
{
	struct stats_shared *sh = calloc(1, stats_shared_size());
	struct buf out = BUF_INIT;

	stats_start(sh);
	stats_request(63);
	stats_request(4096); /* CUSE */
	stats_request(UINT32_MAX);
	stats_request(FUSE_LOOKUP);
	stats_render("a", &out);
	CHECK(strstr(buf_str(&out), "\ntwinspool_fuse_requests_total{slot=\"a\",kind="
				    "\"OTHER\"} 3\n") != NULL);
	CHECK(strstr(buf_str(&out), "\ntwinspool_fuse_requests_total{slot=\"a\",kind="
				    "\"LOOKUP\"} 1\n") != NULL);
	CHECK(strstr(buf_str(&out), "WRITE\"") == NULL);
	CHECK(strstr(buf_str(&out), "\ntwinspool_sync_rounds_total{slot=\"a\"} 0\n") !=
		NULL);
	buf_fini(&out);
	stats_start(NULL);
	free(sh);
}

static uint64_t
answers(unsigned bucket)
{
	return stats_answers(FUSE_FSYNC, bucket);
}

TEST(answers_fall_into_powers_of_two)
{
	struct stats_shared *sh = calloc(1, stats_shared_size());

	stats_start(sh);
	stats_answer(FUSE_FSYNC, 0);
	stats_answer(FUSE_FSYNC, 1);
	CHECK_EQ(answers(0), 2);
	stats_answer(FUSE_FSYNC, 2);
	CHECK_EQ(answers(1), 1);
	stats_answer(FUSE_FSYNC, 3);
	stats_answer(FUSE_FSYNC, 4);
	CHECK_EQ(answers(2), 2);
	stats_answer(FUSE_FSYNC, 1025);
	CHECK_EQ(answers(11), 1);
	stats_answer(FUSE_FSYNC, 8388608);
	CHECK_EQ(answers(STATS_BUCKETS - 2), 1);
	stats_answer(FUSE_FSYNC, 8388609);
	stats_answer(FUSE_FSYNC, UINT64_MAX / 2);
	CHECK_EQ(answers(STATS_BUCKETS - 1), 2);
	CHECK_EQ(stats_answers(FUSE_READ, 0), 0);
	stats_start(NULL);
	free(sh);
}

TEST(a_histogram_adds_up)
{
	struct stats_shared *sh = calloc(1, stats_shared_size());
	struct buf out = BUF_INIT;
	const char *text;

	stats_start(sh);
	stats_answer(FUSE_READ, 3);
	stats_answer(FUSE_READ, 100);
	stats_answer(FUSE_READ, 20000000);
	stats_render("a", &out);
	text = buf_str(&out);
#define ROW "\ntwinspool_fuse_request_seconds_"
	CHECK(strstr(text, ROW
		      "bucket{slot=\"a\",kind=\"READ\",le=\"0.000002\"} 0\n") != NULL);
	CHECK(strstr(text, ROW
		      "bucket{slot=\"a\",kind=\"READ\",le=\"0.000004\"} 1\n") != NULL);
	CHECK(strstr(text, ROW
		      "bucket{slot=\"a\",kind=\"READ\",le=\"0.000128\"} 2\n") != NULL);
	CHECK(strstr(text, ROW
		      "bucket{slot=\"a\",kind=\"READ\",le=\"8.388608\"} 2\n") != NULL);
	CHECK(strstr(text, ROW "bucket{slot=\"a\",kind=\"READ\",le=\"+Inf\"} 3\n") !=
		NULL);
	CHECK(strstr(text, ROW "count{slot=\"a\",kind=\"READ\"} 3\n") != NULL);
	CHECK(strstr(text, ROW "sum{slot=\"a\",kind=\"READ\"} 20.000103\n") != NULL);
	CHECK(strstr(text, "kind=\"WRITE\"") == NULL);
#undef ROW
	stats_start(NULL);
	buf_fini(&out);
	free(sh);
}

/* The state folder's too, SQLite's own among them. */
TEST(syncs_by_what_they_made_durable)
{
	struct stats_shared *sh = calloc(1, stats_shared_size());
	struct buf out = BUF_INIT;
	struct store *store;
	int fd = open(t_tmpdir(), O_RDONLY | O_DIRECTORY);

	stats_start(sh);
	CHECK_EQ(disk_sync(fd, DISK_FOLDER), 0);
	CHECK_EQ(disk_datasync(fd, DISK_NOTES), 0);
	CHECK_EQ(disk_sync_all(fd), 0);
	CHECK_EQ(disk_sync_all(-1), -1); /* asked for all the same */
	CHECK_EQ(store_open(t_tmpdir(), &store), 0);
	uint64_t journal = disk_counted(DISK_JOURNAL), state = disk_counted(DISK_STATE);
	CHECK_EQ(store_put_u64(store, "x", 1), 0); /* its commit is synced */
	CHECK_EQ(disk_counted(DISK_STATE), state + 1);
	CHECK_EQ(store_sync(store), 0);
	CHECK_EQ(disk_counted(DISK_JOURNAL), journal + 1);
	store_close(store);
	CHECK(disk_counted(DISK_JOURNAL) > journal + 1); /* its log went into it */
	stats_render("a", &out);
#define ROW "\ntwinspool_syncs_total{slot=\"a\",kind="
	CHECK(strstr(buf_str(&out), ROW "\"notes\"} 1\n") != NULL);
	CHECK(strstr(buf_str(&out), ROW "\"spool\"} 2\n") != NULL);
	CHECK(strstr(buf_str(&out), ROW "\"body\"} 0\n") != NULL);
#undef ROW
	/* the next server goes on from there */
	stats_start(NULL);
	disk_count(DISK_NOTES);
	stats_start(sh);
	CHECK_EQ(disk_counted(DISK_NOTES), 1);
	stats_start(NULL);
	close(fd);
	buf_fini(&out);
	free(sh);
}

T_MAIN
