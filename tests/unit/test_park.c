/*
 * The table of requests that wait for a peer: what is put away is found, answered from there, and
 * outlives the process that put it there.
 */
#include "fs/park.h"
#include "tests/lib/t.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8
#define EACH 100

/* As the source has it: an entry that is being filled. */
#define CLAIMED 1

static struct park *
table(void)
{
	void *p = mmap(NULL, sizeof(struct park), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void
done(struct park *p)
{
	munmap(p, sizeof(*p));
}

/* How many a new server would carry out again. */
static int
left(struct park *p)
{
	int n = 0;

	for (int i = park_next(p, 0); i >= 0; i = park_next(p, i + 1))
		n++;
	return n;
}

TEST(what_is_put_away_is_found_and_the_same)
{
	struct park *p = table();
	char in[PARK_REQUEST], out[PARK_REQUEST + 1];
	int a, b;

	memset(in, 'a', sizeof(in));
	CHECK(park_put(p, 7, in, 60));
	memset(in, 'b', sizeof(in));
	CHECK(park_put(p, 8, in, sizeof(in)));
	memset(in, 'c', sizeof(in)); /* a copy was kept */
	a = park_find(p, 7);
	b = park_find(p, 8);
	CHECK(a >= 0 && b >= 0 && a != b);
	CHECK_EQ(park_find(p, 9), -1);
	memset(out, 0, sizeof(out));
	CHECK_EQ(park_get(p, a, out, sizeof(out)), 60);
	CHECK(out[0] == 'a' && out[59] == 'a' && out[60] == 0);
	CHECK_EQ(park_get(p, b, out, sizeof(out)), PARK_REQUEST);
	CHECK(out[0] == 'b' && out[PARK_REQUEST - 1] == 'b' && out[PARK_REQUEST] == 0);
	park_free(p, a);
	CHECK_EQ(park_find(p, 7), -1);
	CHECK_EQ(park_find(p, 8), b);
	done(p);
}

TEST(what_does_not_fit_is_refused_and_nothing_of_it_stays)
{
	struct park *p = table();
	char in[PARK_REQUEST + 1] = { 0 };

	CHECK(!park_put(p, 1, in, sizeof(in)));
	CHECK_EQ(left(p), 0);
	for (int i = 0; i < PARK_MAX; i++)
		CHECK(park_put(p, 100 + (uint64_t)i, in, 40));
	CHECK(!park_put(p, 1, in, 40));
	CHECK_EQ(park_find(p, 1), -1);
	CHECK_EQ(left(p), PARK_MAX);
	park_free(p, park_find(p, 100 + PARK_MAX / 2));
	CHECK(park_put(p, 1, in, 40));
	CHECK(!park_put(p, 2, in, 40));
	done(p);
}

TEST(a_length_that_memory_cannot_hold_gives_nothing)
{
	struct park *p = table();
	char in[PARK_REQUEST] = { 1 }, out[8] = { 0 };

	CHECK(park_put(p, 1, in, 60));
	CHECK_EQ(park_get(p, 0, out, sizeof(out)), 0);
	CHECK_EQ(out[0], 0);
	p->one[0].len =
		PARK_REQUEST + 1; /* shared memory is not trusted with lengths */
	char large[2 * PARK_REQUEST];
	CHECK_EQ(park_get(p, 0, large, sizeof(large)), 0);
	done(p);
}

TEST(an_answer_lies_in_the_table_and_is_cut)
{
	struct park *p = table();
	char in[40] = { 0 }, bytes[] = "0123456789abcdefXYZ";
	struct iovec parts[3] = { { bytes, 4 }, { bytes + 4, 0 }, { bytes + 4, 15 } };
	struct iovec one = { bytes, 3 };
	int i;

	CHECK(park_put(p, 1, in, sizeof(in)) && park_put(p, 2, in, sizeof(in)));
	i = park_find(p, 1);
	struct iovec reply = park_answer(p, i, parts, 3);
	CHECK_EQ(reply.iov_len, PARK_REPLY);
	CHECK_MEM(reply.iov_base, "0123456789abcdef", PARK_REPLY);
	/* locked memory, or a kill in the middle of sending would be an error for the caller */
	CHECK((uint8_t *)reply.iov_base >= (uint8_t *)&p->one[i] &&
		(uint8_t *)reply.iov_base + PARK_REPLY <= (uint8_t *)&p->one[i + 1]);
	CHECK_EQ(park_find(p, 2), i + 1); /* nothing ran into the next one */
	reply = park_answer(p, i, &one, 1);
	CHECK_EQ(reply.iov_len, 3);
	done(p);
}

TEST(what_a_dead_process_had_put_away_is_there_and_what_it_had_not_finished_is_not)
{
	struct park *p = table();
	char in[40] = "request", out[PARK_REQUEST];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		(void)park_put(p, 1, in, sizeof(in));
		(void)park_put(p, 2, in, sizeof(in));
		(void)park_put(p, 3, in, sizeof(in));
		(void)park_put(p, 4, in, sizeof(in));
		park_free(p, park_find(p, 1)); /* answered */
		/* died while this one was filled: its slot still has it */
		p->one[park_find(p, 3)].state = CLAIMED;
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK_EQ(park_find(p, 1), -1);
	CHECK_EQ(park_find(p, 3), -1);
	int i = park_next(p, 0);
	CHECK_EQ(i, park_find(p, 2));
	CHECK_EQ(park_get(p, i, out, sizeof(out)), sizeof(in));
	CHECK_STR(out, "request");
	i = park_next(p, i + 1);
	CHECK_EQ(i, park_find(p, 4));
	CHECK_EQ(park_next(p, i + 1), -1);
	/* and the place of the unfinished one is free again: all but the two that wait */
	for (int k = 0; k < PARK_MAX - 2; k++)
		CHECK(park_put(p, 10 + (uint64_t)k, in, sizeof(in)));
	done(p);
}

struct worker {
	struct park *p;
	uint64_t first;
	int bad;
};

static void *
work(void *arg)
{
	struct worker *w = arg;
	uint64_t seen;

	for (uint64_t u = w->first; u < w->first + EACH; u++) {
		int i;

		if (!park_put(w->p, u, &u, sizeof(u)) || (i = park_find(w->p, u)) < 0 ||
			park_get(w->p, i, &seen, sizeof(seen)) != sizeof(seen) ||
			seen != u)
			w->bad++;
		else if (u % 2 == 0)
			park_free(w->p, i);
	}
	return NULL;
}

TEST(many_threads_each_find_their_own)
{
	struct park *p = table();
	struct worker w[THREADS];
	pthread_t t[THREADS];

	for (int i = 0; i < THREADS; i++) {
		w[i] = (struct worker){ p, 1000u * (uint64_t)(i + 1), 0 };
		CHECK_EQ(pthread_create(&t[i], NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < THREADS; i++)
		CHECK_EQ(w[i].bad, 0);
	CHECK_EQ(left(p), THREADS * EACH / 2);
	done(p);
}

T_MAIN
