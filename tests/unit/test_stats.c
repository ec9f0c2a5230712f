/* Counters: counted once each, kept by the memory that they lie in, rendered as Prometheus text. */
#include "fs/stats.h"
#include "tests/lib/t.h"

#include <linux/fuse.h>
#include <pthread.h>
#include <stdlib.h>

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
	stats_render(&out);
	CHECK(strstr(buf_str(&out),
		      "\ntwinspool_fuse_requests_total{kind=\"OTHER\"} 3\n") != NULL);
	CHECK(strstr(buf_str(&out),
		      "\ntwinspool_fuse_requests_total{kind=\"LOOKUP\"} 1\n") != NULL);
	CHECK(strstr(buf_str(&out), "WRITE\"") == NULL);
	CHECK(strstr(buf_str(&out), "\ntwinspool_spool_syncs_total 0\n") != NULL);
	buf_fini(&out);
	stats_start(NULL);
	free(sh);
}

T_MAIN
