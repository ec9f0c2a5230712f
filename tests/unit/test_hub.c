/*
 * test_hub.c - two nodes in one process over loopback TLS: pins, two dials, reconnection, cost.
 */
#include "sync/hub.h"
#include "sync/keygen.h"
#include "sync/link.h"
#include "sync/loop.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "tests/lib/t.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct node {
	const char *name;
	char state[300];
	struct link_tls *tls;
	struct hub *hub;
	struct session *s;
	uint8_t print[32];
	int ups, downs, batches, acks;
	int code;
};

static struct loop *loop;
static struct node a, b;

static void
on_hello(void *node, struct session *s, struct wire_hello *h)
{
	(void)node, (void)s, (void)h;
}

static void
on_up(void *node, struct session *s)
{
	struct node *n = node;

	n->ups++;
	n->s = s;
}

static void
on_down(void *node, struct session *s, int code, const char *text)
{
	struct node *n = node;

	(void)text;
	n->downs++;
	n->code = code;
	if (n->s == s)
		n->s = NULL;
}

static void
on_drained(void *node, struct session *s)
{
	(void)node, (void)s;
}

static int
on_batch(void *node, struct session *s, const void *msg)
{
	const struct wire_batch *batch = msg;
	struct wire_ack ack = { batch->seq, batch->seq, batch->seq };

	((struct node *)node)->batches++;
	return session_send(s, WIRE_ACK, &ack);
}

static int
on_ack(void *node, struct session *s, const void *msg)
{
	(void)s, (void)msg;
	((struct node *)node)->acks++;
	return 0;
}

static int
on_start(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	return 0;
}

static const struct session_ops ops = { on_hello, NULL, on_up, on_down, on_drained,
	NULL, NULL,
	{ [WIRE_BATCH] = on_batch, [WIRE_ACK] = on_ack, [WIRE_START] = on_start } };

static void
node_init(struct node *n, const char *name)
{
	char text[KEYGEN_PRINT_LEN];

	*n = (struct node){ .name = name };
	snprintf(n->state, sizeof(n->state), "%s/%s", t_tmpdir(), name);
	if (keygen_make(n->state, text) != 0 ||
		hash_unhex(text + 7, n->print, sizeof(n->print)) != 0 ||
		link_tls_open(n->state, &n->tls) != 0)
		abort();
}

static void
begin(void)
{
	loop_open(&loop);
	node_init(&a, "a");
	node_init(&b, "b");
}

static const char *peer_host = "127.0.0.1";

/* The node's hub with one peer; port 0: the peer is not dialled. */
static int
open_hub(struct node *n, const char *listen, const struct node *peer,
	const uint8_t *print, unsigned port)
{
	char address[40] = "";

	if (port != 0)
		snprintf(address, sizeof(address), "%s:%u", peer_host, port);
	struct hub_peer_conf pc = { .name = peer->name, .address = address };
	memcpy(pc.fingerprint, print, 32);
	struct hub_conf conf = { .loop = loop,
		.name = n->name,
		.listen = listen,
		.tls = n->tls,
		.peers = &pc,
		.n_peers = 1,
		.ops = &ops,
		.node = n };
	return hub_open(&conf, &n->hub);
}

static void
node_close(struct node *n)
{
	hub_close(n->hub, 3000);
	link_tls_close(n->tls);
	n->hub = NULL;
	n->tls = NULL;
}

static void
end(void)
{
	node_close(&a);
	node_close(&b);
	loop_close(loop);
}

/* Turns until cond, for five seconds at most. */
#define WAIT(cond) \
	do { \
		uint64_t wait_end = clock_ms() + t_limit(5000); \
		while (!(cond) && clock_ms() < wait_end) \
			loop_turn(loop, 10); \
		CHECK(cond); \
	} while (0)

TEST(pinned_peers_meet)
{
	struct hub_peer_facts facts;

	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, hub_port(b.hub)), 0);
	WAIT(a.s != NULL && b.s != NULL);
	CHECK_STR(session_peer(b.s), "a");
	hub_facts(a.hub, 0, &facts);
	CHECK_STR(facts.state, "up");
	CHECK_EQ(facts.sessions, 1);
	CHECK(facts.stats.wire_sent > 0);
	end();
	CHECK_EQ(a.downs + b.downs, 2);
}

/* A name is looked up beside the loop, and every address that it has is tried. */
TEST(dials_by_name)
{
	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	peer_host = "localhost";
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, hub_port(b.hub)), 0);
	peer_host = "127.0.0.1";
	WAIT(a.s != NULL && b.s != NULL);
	end();
}

/* Closing while a name is being looked up waits for the answer and forgets it. */
TEST(closes_while_looking_up)
{
	begin();
	peer_host = "name.invalid";
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, 7411), 0);
	peer_host = "127.0.0.1";
	loop_turn(loop, 0);
	end();
}

TEST(wrong_pin_at_the_dialler)
{
	uint8_t other[32] = { 1 };

	begin();
	t_expect_log("the peer's certificate is not one we know"); /* a */
	t_expect_log("the peer does not accept our certificate"); /* b */
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	CHECK_EQ(open_hub(&a, NULL, &b, other, hub_port(b.hub)), 0);
	uint64_t until = clock_ms() + 400;
	while (clock_ms() < until)
		loop_turn(loop, 20);
	CHECK_EQ(a.ups + b.ups, 0);
	end();
}

/* Several attempts were made meanwhile; each side says it once. */
TEST(wrong_pin_at_the_listener)
{
	uint8_t other[32] = { 1 };
	struct hub_peer_facts facts;

	begin();
	t_expect_log("the peer's certificate is not one we know"); /* b */
	t_expect_log("the peer does not accept our certificate"); /* a */
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, other, 0), 0);
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, hub_port(b.hub)), 0);
	uint64_t until = clock_ms() + 400;
	while (clock_ms() < until)
		loop_turn(loop, 20);
	CHECK_EQ(a.ups + b.ups, 0);
	hub_facts(a.hub, 0, &facts);
	CHECK(strstr(facts.last_error, "does not accept") != NULL);
	end();
}

/* Both dial: one session is left, dialled by the lower name, and both agree on it. */
TEST(two_dials_one_session)
{
	char listen_a[40], listen_b[40];
	unsigned port_a = t_free_port(), port_b = t_free_port();

	begin();
	snprintf(listen_a, sizeof(listen_a), "127.0.0.1:%u", port_a);
	snprintf(listen_b, sizeof(listen_b), "127.0.0.1:%u", port_b);
	CHECK_EQ(open_hub(&a, listen_a, &b, b.print, port_b), 0);
	CHECK_EQ(open_hub(&b, listen_b, &a, a.print, port_a), 0);
	WAIT(a.s != NULL && b.s != NULL);
	uint64_t until = clock_ms() + 300;
	while (clock_ms() < until)
		loop_turn(loop, 20);
	WAIT(a.s != NULL && b.s != NULL);
	CHECK_EQ(a.ups - a.downs, 1);
	CHECK_EQ(b.ups - b.downs, 1);
	CHECK(session_dialled(a.s) != session_dialled(b.s));
	if (a.ups + b.ups > 2) /* there were two, so the rule was asked */
		CHECK(session_dialled(a.s));
	end();
}

/* The listener goes away and comes back: found again by itself. */
TEST(reconnects)
{
	char listen[40];
	unsigned port;

	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	port = hub_port(b.hub);
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, port), 0);
	WAIT(a.s != NULL && b.s != NULL);
	t_expect_log("cannot reach: peer=b");
	hub_close(b.hub, 3000);
	WAIT(a.s == NULL);
	uint64_t until = clock_ms() + 200;
	while (clock_ms() < until)
		loop_turn(loop, 20);
	CHECK_EQ(open_hub(&b, listen, &a, a.print, 0), 0);
	WAIT(a.s != NULL && b.s != NULL);
	CHECK_EQ(a.ups, 2);
	end();
}

/* The process at the other end died and its socket still stands: the new one wins at once. */
TEST(new_process_replaces_the_dead_one)
{
	struct hub *dead;

	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, hub_port(b.hub)), 0);
	WAIT(a.s != NULL && b.s != NULL);
	dead = a.hub;
	/* a second hub of the same name: another boot */
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, hub_port(b.hub)), 0);
	WAIT(b.ups == 2 && b.downs == 1);
	hub_close(dead, 3000);
	WAIT(b.s != NULL);
	end();
}

static int
plain_connect(unsigned port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (struct sockaddr *)&sin, sizeof(sin)) != 0)
		abort();
	return fd;
}

TEST(garbage_instead_of_tls)
{
	char text[] = "GET / HTTP/1.0\r\n\r\n";
	int fd;

	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	fd = plain_connect(hub_port(b.hub));
	CHECK_EQ(write(fd, text, sizeof(text)), sizeof(text));
	t_expect_log("TLS handshake: ");
	for (int i = 0; i < 30; i++)
		loop_turn(loop, 10);
	CHECK_EQ(b.ups, 0);
	/* it was closed */
	char byte[200];
	ssize_t n;
	while ((n = recv(fd, byte, sizeof(byte), 0)) > 0)
		continue;
	CHECK(n == 0 || errno == ECONNRESET);
	close(fd);
	end();
}

/* Strangers that say nothing do not use up the place of the peer for ever. */
TEST(strangers_are_bounded)
{
	int fds[100];

	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	for (int i = 0; i < 100; i++) {
		fds[i] = plain_connect(hub_port(b.hub));
		loop_turn(loop, 0);
	}
	for (int i = 0; i < 10; i++)
		loop_turn(loop, 5);
	char byte;
	int open = 0;
	for (int i = 0; i < 100; i++)
		if (recv(fds[i], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
			open++;
	CHECK(open > 0 && open <= 32);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
	end();
}

/* Somebody who speaks TLS well, only older or without a certificate. */
static void
speak_tls(int highest)
{
	struct timeval tv = { 0, 20000 };
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	int fd = plain_connect(hub_port(b.hub));

	SSL_set_max_proto_version(ssl, highest);
	SSL_set_fd(ssl, fd);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	for (int i = 0; i < 10; i++) {
		SSL_connect(ssl);
		loop_turn(loop, 5);
	}
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(fd);
}

TEST(old_tls_is_refused)
{
	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	t_expect_log("TLS handshake: unsupported protocol");
	speak_tls(TLS1_2_VERSION);
	CHECK_EQ(b.ups, 0);
	end();
}

TEST(no_certificate_is_refused)
{
	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	t_expect_log("TLS handshake: peer did not return a certificate");
	speak_tls(TLS1_3_VERSION);
	CHECK_EQ(b.ups, 0);
	end();
}

TEST(key_that_others_can_read)
{
	char path[400];
	struct link_tls *tls;

	begin();
	snprintf(path, sizeof(path), "%s/key.pem", a.state);
	chmod(path, 0644);
	t_expect_log("others can read the key");
	CHECK_EQ(link_tls_open(a.state, &tls), ERR_ACCESS);
	chmod(path, 0600);
	snprintf(path, sizeof(path), "%s/cert.pem", a.state);
	unlink(path);
	t_expect_log("no key or certificate");
	CHECK_EQ(link_tls_open(a.state, &tls), ERR_NOTFOUND);
	end();
}

/* --- cost (design 10): a flag change of forty bytes, each in a burst of its own ---------- */

/* What such a batch looks like: some constant bytes, two sums, a modseq, a time. */
static size_t
flag_batch(uint8_t *p, unsigned i)
{
	static uint8_t sums[2][16];
	struct buf w = BUF_INIT;
	size_t n;

	memcpy(sums[0], sums[1], 16);
	for (int j = 0; j < 16; j++)
		sums[1][j] = (uint8_t)t_rand();
	buf_put(&w, "\x01\x07", 2);
	wr_varint(&w, 1000 + i); /* modseq */
	wr_varint(&w, 5 + i % 40); /* uid */
	wr_varint(&w, 1700000000 + i); /* time */
	wr_varint(&w, 1u << (i % 5)); /* flags */
	buf_put(&w, sums[0], 16);
	buf_put(&w, sums[1], 16);
	n = w.len;
	memcpy(p, w.data, n);
	buf_fini(&w);
	return n;
}

TEST(cost_of_a_flag_change)
{
	struct wire_start st = { 3, 1, 18, WIRE_MODE_STREAM };
	struct session_stats before, after, back0, back1;
	enum { CHANGES = 500 };
	uint8_t bytes[100];

	begin();
	CHECK_EQ(open_hub(&b, "127.0.0.1:0", &a, a.print, 0), 0);
	CHECK_EQ(open_hub(&a, NULL, &b, b.print, hub_port(b.hub)), 0);
	WAIT(a.s != NULL && b.s != NULL);
	CHECK_EQ(session_send(a.s, WIRE_START, &st), 0);
	for (int i = 0; i < 20; i++)
		loop_turn(loop, 1);
	session_stats(a.s, &before);
	session_stats(b.s, &back0);
	for (int i = 0; i < CHANGES; i++) {
		struct wire_batch batch = { 100000 + (uint64_t)i,
			{ bytes, flag_batch(bytes, (unsigned)i) } };
		CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
		WAIT(a.acks == i + 1);
	}
	session_stats(a.s, &after);
	session_stats(b.s, &back1);
	uint64_t each = (after.wire_sent - before.wire_sent) / CHANGES;
	printf("# a flag change: %.1f bytes on the wire, %.1f of them deflate, %.1f "
	       "raw; "
	       "its ACK: %.1f\n",
		(double)(after.wire_sent - before.wire_sent) / CHANGES,
		(double)(after.zip_sent - before.zip_sent) / CHANGES,
		(double)(after.raw_sent - before.raw_sent) / CHANGES,
		(double)(back1.wire_sent - back0.wire_sent) / CHANGES);
	CHECK(each <= 80);
	CHECK_EQ(after.bursts_sent - before.bursts_sent, CHANGES);
	end();
}

T_MAIN
