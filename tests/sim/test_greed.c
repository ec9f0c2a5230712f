/*
 * test_greed.c - an active node and a peer that reads nothing, asks without end, or gives without
 * end: what the node holds for it stays bounded, and it goes on for others. And a rate.
 *
 * The node is a whole one (tests/lib/duo.h); the peer is a hub of this test with the standby's key.
 */
#include "meta/base/clock.h"
#include "meta/base/log.h"
#include "sync/hub.h"
#include "sync/link.h"
#include "sync/loop.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct duo d;
static struct rig A;
static struct link_tls *tls;
static struct loop *loop;
static struct hub *hub;
static struct session *up;
static unsigned ups;
static bool reads;
static char ended[SESSION_SAID];
static uint64_t body_bytes, last_batch;
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

static unsigned nothings, gones;

static void
on_hello(void *node, struct session *s, struct wire_hello *h)
{
	(void)node, (void)s;
	h->spool_id = "b";
}

static void
on_up(void *node, struct session *s)
{
	(void)node;
	up = s;
	ups++;
}

static void
on_down(void *node, struct session *s, int code, const char *text)
{
	(void)node, (void)s, (void)code;
	snprintf(ended, sizeof(ended), "%s", text);
	up = NULL;
}

static void
on_drained(void *node, struct session *s)
{
	(void)node, (void)s;
}

static bool
no_room(void *node, struct session *s)
{
	(void)node, (void)s;
	return !reads;
}

static int
take(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	return 0;
}

static int
on_batch(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s;
	last_batch = ((const struct wire_batch *)msg)->seq;
	return 0;
}

static int
on_body(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s;
	body_bytes += ((const struct wire_body *)msg)->data.n;
	return 0;
}

static int
on_diff(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s;
	nothings += (unsigned)((const struct wire_diff *)msg)->list.n;
	return 0;
}

static int
on_gone(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	gones++;
	return 0;
}

static const struct session_ops ops = { on_hello, NULL, on_up, on_down, on_drained,
	no_room, NULL,
	{ [WIRE_START] = take,
		[WIRE_BATCH] = on_batch,
		[WIRE_BODY] = on_body,
		[WIRE_GONE] = on_gone,
		[WIRE_SUMS] = take,
		[WIRE_DIFF] = on_diff,
		[WIRE_LIST] = take,
		[WIRE_QUARANTINE] = take,
		[WIRE_VERIFY] = take,
		[WIRE_WANT] = take } };

/* Turns until so, for some seconds at most. */
#define UNTIL(so) \
	do { \
		uint64_t until_end = clock_ms() + DUO_WAIT_MS; \
		while (!(so) && clock_ms() < until_end) \
			loop_turn(loop, 10); \
		CHECK(so); \
	} while (0)

static void
turn_for(uint64_t ms)
{
	for (uint64_t end = clock_ms() + ms; clock_ms() < end;)
		loop_turn(loop, 10);
}

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
	char at[40];
	uint8_t print[LINK_PRINT_LEN];

	duo_open(&d);
	d.rate = rate;
	up = NULL;
	ups = 0;
	reads = true;
	body_bytes = last_batch = 0;
	if (loop_open(&loop) != 0 || link_tls_open(d.state_b, &tls) != 0 ||
		hash_unhex(d.print_a + strlen("sha256:"), print, sizeof(print)) != 0)
		abort();
	struct hub_peer_conf pc = { .name = "a", .address = "" };
	memcpy(pc.fingerprint, print, sizeof(print));
	snprintf(at, sizeof(at), "127.0.0.1:%u", d.port);
	struct hub_conf conf = { .loop = loop,
		.name = "b",
		.listen = at,
		.tls = tls,
		.peers = &pc,
		.n_peers = 1,
		.ops = &ops };
	if (hub_open(&conf, &hub) != 0)
		abort();
	duo_start_a(&d);
	UNTIL(up != NULL);
	duo_create(&d, &A, "box/a", "id-a");
	A.noise = true;
	UNTIL(last_batch > 0);
}

static void
end(void)
{
	duo_close(&d);
	hub_close(hub, 100);
	link_tls_close(tls);
	loop_close(loop);
}

TEST(a_peer_that_reads_nothing_costs_the_queue_alone)
{
	enum { MESSAGES = 400, SIZE = 100000 };

	begin(0);
	reads = false;
	size_t before = held();
	for (int i = 0; i < MESSAGES; i++) {
		rig_append(&A, SIZE);
		if (i % 20 == 19)
			duo_commit(&d, &A);
		loop_turn(loop, 0);
	}
	/* What it holds: until that has not grown for a while. */
	size_t most = 0, grown = 0;
	for (unsigned same = 0; same < 10; same++, grown = held() - before) {
		if (grown > most) {
			most = grown;
			same = 0;
		}
		turn_for(100);
	}
	printf("# %.1f MB of mail, the node holds %.1f MB more\n",
		MESSAGES * SIZE / 1e6, (double)most / 1e6);
	CHECK(body_bytes < MESSAGES * SIZE);
	CHECK(most < 12 << 20);
	CHECK(up != NULL);
	reads = true;
	UNTIL(body_bytes >= (uint64_t)MESSAGES * SIZE);
	CHECK_EQ(ups, 1);
	end();
}

TEST(a_peer_that_needs_without_end_is_sent_away)
{
	struct wire_need need = { .size = 1000, .dir = "box/a", .uid = 99 };
	unsigned asked = 0;
	size_t grown = 0;

	log_set_level(LOG_LEVEL_ERR);
	begin(0);
	reads = false;
	size_t before = held();
	while (up != NULL && asked < 2000000) {
		for (int i = 0; i < 500 && session_queued(up) < 1 << 20; i++) {
			for (unsigned k = 0; k < sizeof(need.guid); k++)
				need.guid[k] = (uint8_t)t_rand();
			if (session_send(up, WIRE_NEED, &need) != 0)
				break;
			asked++;
		}
		loop_turn(loop, 1);
		/* It must be read for the BYE to come, which is behind all the answers. */
		static struct sync_facts f;
		sync_facts(d.sync, &f);
		reads = strcmp(f.peers[0].error, "") != 0;
		if (held() > before && held() - before > grown)
			grown = held() - before;
	}
	printf("# asked %u times, %.1f MB more: %s\n", asked, (double)grown / 1e6,
		ended);
	CHECK(up == NULL);
	CHECK(strstr(ended, "NEED") != NULL);
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
	UNTIL(body_bytes >= 500 * 20000);
	for (uint32_t i = 0; i < ITEMS; i++)
		items[i].uid = i + 1;
	reads = false;
	size_t before = held();
	while (up != NULL && given < MOST && quiet < 200) {
		bool room = session_queued(up) < 1 << 20;
		quiet = room ? 0 : quiet + 1;
		if (room && session_send(up, WIRE_RECORDS, &m) == 0)
			given++;
		loop_turn(loop, 5);
	}
	size_t grown = held() - before;
	printf("# %u lists of %d records given, %.1f MB more\n", given, ITEMS,
		(double)grown / 1e6);
	CHECK(up != NULL);
	CHECK(given < MOST);
	CHECK(grown < 110 << 20);
	/* and when it takes again, it goes on */
	reads = true;
	uint64_t bodies = body_bytes;
	UNTIL(up != NULL && body_bytes > bodies + 30 * 500 * 20000ULL);
	end();
}

/* Each name that it makes up would be an entry for ever. */
TEST(names_that_a_peer_makes_up_are_not_kept)
{
	enum { NAMES = 40000 };
	char dir[64];
	struct wire_records m = { .dir = dir, .uniqueid = "", .last = true };

	begin(0);
	nothings = 0;
	size_t before = held();
	for (unsigned i = 0; up != NULL && i < NAMES; i++) {
		snprintf(dir, sizeof(dir), "made/up/%u", i);
		CHECK_EQ(session_send(up, WIRE_RECORDS, &m), 0);
		if (i % 100 == 0)
			UNTIL(nothings + 200 > i);
	}
	UNTIL(nothings == NAMES);
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
	nothings = 0;
	disk_hangs = true;
	duo_commit(&d, &A);
	turn_for(300);
	CHECK_EQ(session_send(up, WIRE_RECORDS, &m), 0);
	UNTIL(nothings == 1);
	CHECK_EQ(body_bytes, 0);
	disk_hangs = false;
	UNTIL(body_bytes >= SLOW_SIZE);
	/* nor does a session wait for it that is over */
	disk_hangs = true;
	rig_append(&A, SLOW_SIZE);
	duo_commit(&d, &A);
	turn_for(300);
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
	UNTIL(body_bytes >= SIZE);
	gones = 0;
	need.size = A.rec[0].size;
	memcpy(need.guid, A.rec[0].guid, SHA1_LEN);
	CHECK_EQ(session_send(up, WIRE_NEED, &need), 0);
	UNTIL(body_bytes >= SIZE + BEGUN);
	snprintf(path, sizeof(path), "%s/box/a/1.", d.root_a);
	CHECK_EQ(truncate(path, 1000), 0);
	UNTIL(gones == 1);
	CHECK(up != NULL);
	CHECK(body_bytes < 2 * (uint64_t)SIZE);
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
	turn_for(500);
	struct session_stats one, two;
	session_stats(up, &one);
	uint64_t from = clock_us();
	turn_for(SECONDS * 1000);
	session_stats(up, &two);
	double rate = (double)(two.wire_got - one.wire_got) * 1e6 /
		      (double)(clock_us() - from);
	printf("# %.0f bytes a second of %d, %.1f MB more held\n", rate, RATE,
		(double)(held() - before) / 1e6);
	CHECK(rate < RATE * 1.05);
	CHECK(rate > RATE * 0.7);
	CHECK(up != NULL);
	end();
}

T_MAIN
