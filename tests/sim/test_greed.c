/*
 * test_greed.c - an active node and a peer that reads nothing, asks without end, or gives without
 * end: what the node holds for it stays bounded, and it goes on for others. And a rate.
 *
 * The node is a whole one (tests/lib/duo.h); the peer is a script (tests/lib/side.h).
 */
#include "meta/base/log.h"
#include "tests/lib/side.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct duo d;
static struct rig A;
static struct side peer;
static _Atomic bool disk_hangs;

enum { SLOW_SIZE = 20 << 20 };

/* The program's own: a disk that hands out nothing of large files for a while. */
ssize_t
pread(int fd, void *p, size_t n, off_t at)
{
	struct stat st;

	while (disk_hangs && fstat(fd, &st) == 0 && st.st_size >= SLOW_SIZE)
		usleep(1000);
	return syscall(SYS_pread64, fd, p, n, at);
}

#define UNTIL(so) SIDE_UNTIL(&peer, so)

static size_t
held(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* The node with one mailbox, and the peer that has said hello and read what it was told first. */
static void
begin(uint64_t rate)
{
	duo_open(&d);
	d.rate = rate;
	peer.deaf = false;
	side_open(&peer, &d);
	duo_start_a(&d);
	UNTIL(peer.up != NULL);
	duo_create(&d, &A, "box/a", "id-a");
	A.noise = true;
	UNTIL(peer.last_batch > 0);
}

static void
end(void)
{
	duo_close(&d);
	side_close(&peer);
}

TEST(a_peer_that_reads_nothing_costs_the_queue_alone)
{
	enum { MESSAGES = 400, SIZE = 100000 };

	begin(0);
	peer.deaf = true;
	size_t before = held();
	for (int i = 0; i < MESSAGES; i++) {
		rig_append(&A, SIZE);
		if (i % 20 == 19)
			duo_commit(&d, &A);
		loop_turn(peer.loop, 0);
	}
	/* What it holds: until that has not grown for a while. */
	size_t most = 0, grown = 0;
	for (unsigned same = 0; same < 10; same++, grown = held() - before) {
		if (grown > most) {
			most = grown;
			same = 0;
		}
		side_turn(&peer, 100);
	}
	printf("# %.1f MB of mail, the node holds %.1f MB more\n",
		MESSAGES * SIZE / 1e6, (double)most / 1e6);
	CHECK(peer.body_bytes < MESSAGES * SIZE);
	CHECK(most < 12 << 20);
	CHECK(peer.up != NULL);
	peer.deaf = false;
	UNTIL(peer.body_bytes >= (uint64_t)MESSAGES * SIZE);
	CHECK_EQ(peer.ups, 1);
	end();
}

TEST(a_peer_that_needs_without_end_is_sent_away)
{
	struct wire_need need = { .size = 1000, .dir = "box/a", .uid = 99 };
	unsigned asked = 0;
	size_t grown = 0;

	log_set_level(LOG_LEVEL_ERR);
	begin(0);
	peer.deaf = true;
	size_t before = held();
	while (peer.up != NULL && asked < 2000000) {
		for (int i = 0; i < 500 && session_queued(peer.up) < 1 << 20; i++) {
			for (unsigned k = 0; k < sizeof(need.guid); k++)
				need.guid[k] = (uint8_t)t_rand();
			if (session_send(peer.up, WIRE_NEED, &need) != 0)
				break;
			asked++;
		}
		loop_turn(peer.loop, 1);
		/* It must be read for the BYE to come, which is behind all the answers. */
		static struct sync_facts f;
		sync_facts(d.sync, &f);
		peer.deaf = strcmp(f.peers[0].error, "") == 0;
		if (held() > before && held() - before > grown)
			grown = held() - before;
	}
	printf("# asked %u times, %.1f MB more: %s\n", asked, (double)grown / 1e6,
		peer.ended);
	CHECK(peer.up == NULL);
	CHECK(strstr(peer.ended, "NEED") != NULL);
	CHECK(grown < 16 << 20);
	end();
}

TEST(a_peer_that_lacks_without_end_is_not_read_until_it_takes)
{
	enum { ITEMS = 10000, MOST = 3000 };
	static struct wire_record items[ITEMS];
	struct wire_records m = { .dir = "box/a",
		.uniqueid = "id-a",
		.list = { items, ITEMS },
		.last = true };
	unsigned given = 0;
	uint64_t quiet = 0;

	log_set_level(LOG_LEVEL_ERR);
	begin(0);
	for (int i = 0; i < 500; i++)
		rig_append(&A, 20000);
	duo_commit(&d, &A);
	UNTIL(peer.body_bytes >= 500 * 20000);
	for (uint32_t i = 0; i < ITEMS; i++)
		items[i].uid = i + 1;
	peer.deaf = true;
	size_t before = held();
	while (peer.up != NULL && given < MOST && quiet < 200) {
		bool room = session_queued(peer.up) < 1 << 20;
		quiet = room ? 0 : quiet + 1;
		if (room && session_send(peer.up, WIRE_RECORDS, &m) == 0)
			given++;
		loop_turn(peer.loop, 5);
	}
	size_t grown = held() - before;
	printf("# %u lists of %d records given, %.1f MB more\n", given, ITEMS,
		(double)grown / 1e6);
	CHECK(peer.up != NULL);
	CHECK(given < MOST);
	CHECK(grown < 110 << 20);
	/* and when it takes again, it goes on */
	peer.deaf = false;
	uint64_t bodies = peer.body_bytes;
	UNTIL(peer.up != NULL && peer.body_bytes > bodies + 30 * 500 * 20000ULL);
	end();
}

/* Each name that it makes up would be an entry for ever. */
TEST(names_that_a_peer_makes_up_are_not_kept)
{
	enum { NAMES = 40000 };
	char dir[64];
	struct wire_records m = { .dir = dir, .uniqueid = "", .last = true };

	begin(0);
	peer.named = 0;
	size_t before = held();
	for (unsigned i = 0; peer.up != NULL && i < NAMES; i++) {
		snprintf(dir, sizeof(dir), "made/up/%u", i);
		CHECK_EQ(session_send(peer.up, WIRE_RECORDS, &m), 0);
		if (i % 100 == 0)
			UNTIL(peer.named + 200 > i);
	}
	UNTIL(peer.named == NAMES);
	size_t grown = held() - before;
	printf("# %d names cost %.1f MB\n", NAMES, (double)grown / 1e6);
	CHECK(grown < 2 << 20);
	end();
}

/* A file that takes longer to read than a silent peer is waited for. */
TEST(a_large_body_on_a_slow_disk_holds_up_nothing_else)
{
	struct wire_records m = { .dir = "made/up", .uniqueid = "", .last = true };

	begin(0);
	rig_append(&A, SLOW_SIZE);
	peer.named = 0;
	disk_hangs = true;
	duo_commit(&d, &A);
	side_turn(&peer, 300);
	CHECK_EQ(session_send(peer.up, WIRE_RECORDS, &m), 0);
	UNTIL(peer.named == 1);
	CHECK_EQ(peer.body_bytes, 0);
	disk_hangs = false;
	UNTIL(peer.body_bytes >= SLOW_SIZE);
	/* nor does a session wait for it that is over */
	disk_hangs = true;
	rig_append(&A, SLOW_SIZE);
	duo_commit(&d, &A);
	side_turn(&peer, 300);
	disk_hangs = false;
	end();
}

/* One that waits for it would wait for the next session. The rate keeps the rest of it with the
 * sender: a kernel may take 32 MB for a socket that nobody reads. */
TEST(a_body_that_ends_while_it_is_sent_is_told_to_be_gone)
{
	enum { SIZE = 5 << 20, BEGUN = 1 << 20, RATE = 3 << 20 };
	struct wire_need need = { .dir = "box/a", .uid = 1 };
	char path[sizeof(d.root_a) + 16];

	begin(RATE);
	rig_append(&A, SIZE);
	duo_commit(&d, &A);
	UNTIL(peer.body_bytes >= SIZE);
	peer.gones = 0;
	need.size = A.rec[0].size;
	memcpy(need.guid, A.rec[0].guid, SHA1_LEN);
	CHECK_EQ(session_send(peer.up, WIRE_NEED, &need), 0);
	UNTIL(peer.body_bytes >= SIZE + BEGUN);
	snprintf(path, sizeof(path), "%s/box/a/1.", d.root_a);
	CHECK_EQ(truncate(path, 1000), 0);
	UNTIL(peer.gones == 1);
	CHECK(peer.up != NULL);
	CHECK(peer.body_bytes < 2 * (uint64_t)SIZE);
	end();
}

TEST(a_rate_is_kept)
{
	enum { RATE = 400000, SECONDS = 3, MESSAGES = 200, SIZE = 100000 };

	begin(RATE);
	size_t before = held();
	for (int i = 0; i < MESSAGES; i++)
		rig_append(&A, SIZE);
	duo_commit(&d, &A);
	side_turn(&peer, 500);
	struct session_stats one, two;
	session_stats(peer.up, &one);
	uint64_t from = clock_us();
	side_turn(&peer, SECONDS * 1000);
	session_stats(peer.up, &two);
	double rate = (double)(two.wire_got - one.wire_got) * 1e6 /
		      (double)(clock_us() - from);
	printf("# %.0f bytes a second of %d, %.1f MB more held\n", rate, RATE,
		(double)(held() - before) / 1e6);
	CHECK(rate < RATE * 1.05);
	CHECK(rate > RATE * 0.7);
	CHECK(peer.up != NULL);
	end();
}

T_MAIN
