/*
 * test_line.c - stories of two nodes and a bad line between them: TLS over a proxy that cuts,
 * stalls and flips bits, and now and then a node that restarts.
 *
 * The model of the duties is as small as it can be: a journal of batches at a, an inbox at b that
 * remembers the last seq; on every new session a starts behind what b says it holds. Whatever the
 * line does, b must get every batch in order, with the bytes that a sent. A session that replaces
 * an old one may begin with what the old one still brought after HELLO was sent; never with a gap.
 */
#include "sync/hub.h"
#include "sync/keygen.h"
#include "sync/link.h"
#include "sync/loop.h"
#include "meta/base/clock.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"
#include "tests/lib/badline.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCHES = 400, STORIES = 6, BYTES_MAX = 50000 };

struct node {
	const char *name;
	char state[300];
	uint8_t print[LINK_PRINT_LEN];
	struct link_tls *tls;
	struct hub *hub;
	struct session *s;
	unsigned ups;
};

static struct loop *loop;
static struct node a, b;
static uint64_t sent, held; /* a: seq sent in this session; b: seq received, for good */
static uint64_t wrong, acked, seed;

/* The bytes of a batch follow from its seq alone. */
static size_t
batch_bytes(uint64_t seq, uint8_t *p)
{
	uint64_t x = seq * 0x9e3779b97f4a7c15u + seed;
	size_t n = seq % 7 == 0 ? x % BYTES_MAX : x % 200;

	for (size_t i = 0; i < n; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(x >> 56) % (seq % 2 ? 16 : 255);
	}
	return n;
}

/* As much of the journal as the session takes. */
static void
pump(void)
{
	static uint8_t bytes[BYTES_MAX];

	while (a.s != NULL && sent < BATCHES) {
		struct wire_batch m = { sent + 1,
			{ bytes, batch_bytes(sent + 1, bytes) } };
		if (session_send(a.s, WIRE_BATCH, &m) != 0)
			return;
		sent++;
	}
}

static void
on_hello(void *node, struct session *s, struct wire_hello *h)
{
	(void)s;
	if (node == &b)
		h->held_received = held;
}

static void
on_up(void *node, struct session *s)
{
	struct node *n = node;
	struct wire_start start = { 1, 1, session_hello(s)->held_received + 1, 0 };

	n->s = s;
	n->ups++;
	if (n != &a)
		return;
	sent = session_hello(s)->held_received;
	session_send(s, WIRE_START, &start);
	pump();
}

static void
on_down(void *node, struct session *s, int code, const char *text)
{
	struct node *n = node;

	(void)code, (void)text;
	if (n->s == s)
		n->s = NULL;
}

static void
on_drained(void *node, struct session *s)
{
	(void)s;
	if (node == &a)
		pump();
}

static int
on_start(void *node, struct session *s, const void *msg)
{
	(void)s;
	wrong += node != &b || ((const struct wire_start *)msg)->from_seq > held + 1;
	return 0;
}

static int
on_batch(void *node, struct session *s, const void *msg)
{
	static uint8_t bytes[BYTES_MAX];
	const struct wire_batch *m = msg;

	(void)node;
	wrong += m->seq != held + 1 || m->bytes.n != batch_bytes(m->seq, bytes) ||
		 memcmp(bytes, m->bytes.p, m->bytes.n) != 0;
	held = m->seq;
	struct wire_ack ack = { held, held, held };
	return session_send(s, WIRE_ACK, &ack);
}

static int
on_ack(void *node, struct session *s, const void *msg)
{
	uint64_t seq = ((const struct wire_ack *)msg)->applied;

	(void)node, (void)s;
	wrong += seq > BATCHES || seq < acked;
	acked = seq;
	return 0;
}

static const struct session_ops ops = { on_hello, NULL, on_up, on_down, on_drained,
	NULL, NULL,
	{ [WIRE_BATCH] = on_batch, [WIRE_ACK] = on_ack, [WIRE_START] = on_start } };

static void
node_open(struct node *n, const struct node *peer, unsigned port)
{
	char address[40] = "";

	if (port != 0)
		snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	struct hub_peer_conf pc = { .name = peer->name, .address = address };
	memcpy(pc.fingerprint, peer->print, sizeof(peer->print));
	struct hub_conf conf = { .loop = loop,
		.name = n->name,
		.listen = port != 0 ? NULL : "127.0.0.1:0",
		.tls = n->tls,
		.peers = &pc,
		.n_peers = 1,
		.ops = &ops,
		.node = n };
	if (hub_open(&conf, &n->hub) != 0)
		abort();
}

/* Warnings about the line are what the story is made of. */
static void
on_log(enum log_level level, const char *line)
{
	if (level == LOG_LEVEL_ERR)
		t_fail("log", 0, "unexpected line: %s", line);
}

static void
story(unsigned i)
{
	static const struct badline_faults faults[] = {
		{ .cut = 20 },
		{ .flip = 20 },
		{ .stall = 5, .stall_ms = 20 },
		{ .cut = 300, .flip = 300, .stall = 40, .stall_ms = 30, .piece = 700 },
		{ .cut = 3000, .piece = 40 },
		{ .flip = 300, .stall = 50, .stall_ms = 5, .piece = 100 },
	};
	struct badline *line;
	uint64_t until = clock_ms() + t_limit(20000), restart_at = held;
	unsigned restarts = 0;

	seed = t_rand();
	sent = held = acked = wrong = 0;
	a.ups = b.ups = 0;
	a.s = b.s = NULL;
	node_open(&b, &a, 0);
	CHECK(badline_open(loop, hub_port(b.hub), seed, &line) == 0);
	badline_set(line, &faults[i]);
	node_open(&a, &b, badline_port(line));
	restart_at = 1 + t_rand() % BATCHES;
	while ((held < BATCHES || acked < BATCHES) && clock_ms() < until &&
		wrong == 0) {
		loop_turn(loop, 10);
		hub_hurry(a.hub); /* the story is about the line, not about back-off */
		if (held >= restart_at && restarts == 0) {
			hub_close(a.hub, 0);
			a.s = NULL;
			node_open(&a, &b, badline_port(line));
			restarts++;
		}
		/* what b acknowledged last may have been lost with the line */
		if (held == BATCHES && a.s != NULL &&
			session_hello(a.s)->held_received == BATCHES)
			acked = BATCHES;
	}
	printf("# story %u: held=%llu sessions=%u faults=%u\n", i,
		(unsigned long long)held, a.ups, badline_count(line));
	unsigned count = badline_count(line);
	hub_close(a.hub, 0);
	hub_close(b.hub, 0);
	badline_close(line);
	CHECK_EQ(wrong, 0);
	CHECK_EQ(held, BATCHES);
	CHECK(count > 0);
}

TEST(every_batch_once_in_order)
{
	char print[KEYGEN_PRINT_LEN];

	a = (struct node){ .name = "a" };
	b = (struct node){ .name = "b" };
	snprintf(a.state, sizeof(a.state), "%s/a", t_tmpdir());
	snprintf(b.state, sizeof(b.state), "%s/b", t_tmpdir());
	CHECK_EQ(keygen_make(a.state, print), 0);
	CHECK_EQ(hash_unhex(print + 7, a.print, sizeof(a.print)), 0);
	CHECK_EQ(keygen_make(b.state, print), 0);
	CHECK_EQ(hash_unhex(print + 7, b.print, sizeof(b.print)), 0);
	CHECK_EQ(link_tls_open(a.state, &a.tls), 0);
	CHECK_EQ(link_tls_open(b.state, &b.tls), 0);
	CHECK_EQ(loop_open(&loop), 0);
	log_set_hook(on_log);
	for (unsigned i = 0; i < STORIES; i++)
		story(i);
	link_tls_close(a.tls);
	link_tls_close(b.tls);
	loop_close(loop);
}

T_MAIN
