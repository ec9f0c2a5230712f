/*
 * test_session.c - two sessions over a memory link, and one against a raw end that misbehaves.
 */
#include "sync/session.h"
#include "sync/loop.h"
#include "sync/zip.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "tests/lib/memlink.h"
#include "tests/lib/t.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static uint64_t now_us;

static uint64_t
fake_clock(void)
{
	return now_us;
}

/* One side as the duties would see it. */
struct node {
	const char *name;
	struct session *s;
	int ups, downs, drains, ended, messages, applied;
	int code;
	uint64_t last_seq;
	char reason[300];
	int judge, handler_says;
	bool no_room;
};

static struct loop *loop;
static struct node a, b;
static struct session_conf conf_a, conf_b;
static const uint8_t print_a[32] = { 'a' }, print_b[32] = { 'b' };

static void
on_hello(void *node, struct session *s, struct wire_hello *h)
{
	(void)node, (void)s;
	h->epoch = 3;
	h->journal_last = 17;
}

static int
on_judge(void *node, struct session *s, const struct wire_hello *h)
{
	struct node *n = node;

	if (n->judge != 0 || h->epoch != 3 || h->journal_last != 17)
		return session_reject(s, ERR_PEER, WIRE_BYE_EPOCH,
			"epoch %d is not ours", (int)h->epoch);
	return 0;
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

	(void)s;
	n->downs++;
	n->code = code;
	n->s = NULL;
	snprintf(n->reason, sizeof(n->reason), "%s", text);
}

static void
on_drained(void *node, struct session *s)
{
	(void)s;
	((struct node *)node)->drains++;
}

static uint64_t
on_last(void *node)
{
	(void)node;
	return 17;
}

static int
on_batch(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	const struct wire_batch *batch = msg;

	(void)s;
	n->messages++;
	n->last_seq = batch->seq;
	return n->handler_says;
}

static int
on_ack(void *node, struct session *s, const void *msg)
{
	(void)s;
	((struct node *)node)->applied = (int)((const struct wire_ack *)msg)->applied;
	return 0;
}

static int
on_start(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	return 0;
}

static bool
on_no_room(void *node, struct session *s)
{
	(void)s;
	return ((struct node *)node)->no_room;
}

static const struct session_ops ops = { on_hello, on_judge, on_up, on_down, on_drained,
	on_no_room, on_last,
	{ [WIRE_BATCH] = on_batch, [WIRE_ACK] = on_ack, [WIRE_START] = on_start } };

static int
who(void *owner, const uint8_t fingerprint[32], const char **name_out)
{
	(void)owner;
	*name_out = fingerprint[0] == 'a' ? "a" : "b";
	return fingerprint[0] == 'a' || fingerprint[0] == 'b' ? 0 : -1;
}

static void
ended(void *owner, struct session *s, int code)
{
	struct node *n = owner;

	n->ended++;
	n->code = code;
	snprintf(n->reason, sizeof(n->reason), "%s", session_reason(s));
}

static void
turn(int n)
{
	while (n-- > 0)
		loop_turn(loop, 0);
}

static void
begin(void)
{
	now_us = 1000000000;
	clock_set_source(fake_clock);
	a = (struct node){ .name = "a" };
	b = (struct node){ .name = "b" };
	loop_open(&loop);
	conf_a = (struct session_conf){ .loop = loop,
		.name = "a",
		.boot = 1,
		.ops = &ops,
		.node = &a,
		.who = who,
		.ended = ended,
		.owner = &a };
	conf_b = conf_a;
	conf_b.name = "b";
	conf_b.node = conf_b.owner = &b;
}

static struct link *link_a, *link_b;

static void
connect_both(void)
{
	struct session *s;

	memlink_pair(print_a, print_b, &link_a, &link_b);
	session_open(&conf_a, link_a, true, &s);
	session_open(&conf_b, link_b, false, &s);
	turn(6);
}

static void
end(void)
{
	turn(4);
	now_us += 60000000;
	turn(4);
	loop_close(loop);
	clock_set_source(NULL);
}

/* Closes both sides in order, with the line that says so. */
static void
end_pair(void)
{
	if (a.s != NULL)
		session_end(a.s, WIRE_BYE_STOP, "stopping");
	end();
}

static void
start(struct node *n)
{
	struct wire_start msg = { 3, 1, 18, WIRE_MODE_STREAM };

	session_send(n->s, WIRE_START, &msg);
	turn(3);
}

TEST(handshake_and_messages)
{
	struct wire_batch batch = { 18, { (const uint8_t *)"x", 1 } };
	struct wire_ack ack = { 18, 18, 18 };
	struct session_stats st;

	begin();
	connect_both();
	CHECK_EQ(a.ups, 1);
	CHECK_EQ(b.ups, 1);
	CHECK_STR(session_peer(a.s), "b");
	CHECK_EQ(session_version(a.s), 1);
	CHECK_EQ(session_hello(b.s)->epoch, 3);
	CHECK_STR(session_hello(b.s)->name, "a");
	/* not yet: START has not gone */
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), ERR_USAGE);
	CHECK_EQ(session_send(b.s, WIRE_ACK, &ack), ERR_USAGE);
	start(&a);
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
	batch.seq = 19;
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
	turn(3);
	CHECK_EQ(b.messages, 2);
	CHECK_EQ(b.last_seq, 19);
	CHECK_EQ(session_send(b.s, WIRE_BATCH, &batch), ERR_USAGE);
	CHECK_EQ(session_send(b.s, WIRE_ACK, &ack), 0);
	turn(3);
	CHECK_EQ(a.applied, 18);
	session_stats(a.s, &st);
	CHECK_EQ(st.sent[WIRE_BATCH].messages, 2);
	CHECK_EQ(st.bursts_sent, 2); /* START; both batches */
	end_pair();
	CHECK_EQ(a.downs, 1);
	CHECK_EQ(b.downs, 1);
	CHECK_EQ(a.ended + b.ended, 2);
	CHECK(strstr(b.reason, "the peer says: stopping") != NULL);
}

TEST(bye_tells_both_why)
{
	begin();
	b.judge = 1;
	t_expect_log("epoch 3 is not ours");
	t_expect_log("the peer says: epochs do not fit: epoch 3 is not ours");
	connect_both();
	turn(3);
	CHECK_EQ(b.ups, 0);
	CHECK_EQ(b.code, ERR_PEER);
	CHECK_EQ(a.code, ERR_PEER);
	end();
	CHECK_EQ(a.ended + b.ended, 2);
}

TEST(wrong_name)
{
	begin();
	conf_a.name = "mallory";
	t_expect_log("the peer with this certificate is a here");
	t_expect_log("the peer says: wrong name");
	connect_both();
	end();
	CHECK_EQ(b.ups, 0);
	CHECK_EQ(a.ended + b.ended, 2);
}

TEST(unknown_fingerprint)
{
	static const uint8_t other[32] = { 'z' };
	struct session *s;

	begin();
	t_expect_log("a certificate that no peer has");
	t_expect_log("memory link: ");
	memlink_pair(other, print_b, &link_a, &link_b);
	session_open(&conf_b, link_b, false, &s);
	session_open(&conf_a, link_a, false, &s);
	turn(5);
	CHECK_EQ(a.ups + b.ups, 0);
	CHECK_EQ(b.code, ERR_CERT);
	end();
}

TEST(one_version_apart_works)
{
	begin();
	conf_a.proto_max = 2;
	connect_both();
	CHECK_EQ(a.ups + b.ups, 2);
	CHECK_EQ(session_version(a.s), 1);
	CHECK_EQ(session_version(b.s), 1);
	end_pair();
}

TEST(peer_from_the_future)
{
	begin();
	conf_a.proto_min = 7;
	conf_a.proto_max = 9;
	t_expect_log("no common version: peer=7..9 own=1..1");
	t_expect_log("no common version: peer=1..1 own=7..9");
	connect_both();
	end();
	CHECK_EQ(a.ups + b.ups, 0);
	CHECK_EQ(a.ended + b.ended, 2);
}

/* --- a raw end ----------------------------------------------------------------------- */

static int raw_fd;
static struct zip_out *raw_zip;
static struct buf raw_frame;

static void
raw_send(const void *p, size_t n)
{
	ssize_t done = send(raw_fd, p, n, MSG_NOSIGNAL);

	if (done != (ssize_t)n)
		t_fail(__FILE__, __LINE__, "raw send: %s", strerror(errno));
}

/* b with a raw end at its other side. */
static void
raw_open(void)
{
	struct session *s;
	int fds[2];

	begin();
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds);
	raw_fd = fds[0];
	zip_out_open(&raw_zip);
	session_open(&conf_b, memlink_over(fds[1], print_a), false, &s);
	turn(3);
}

static void
raw_hello(void)
{
	struct wire_hello h = { .proto_min = 1,
		.proto_max = 1,
		.name = "a",
		.epoch = 3,
		.journal_last = 17 };

	buf_clear(&raw_frame);
	wire_encode(WIRE_HELLO, 1, &h, &raw_frame);
	raw_send(raw_frame.data, raw_frame.len);
	turn(3);
}

static void
raw_zipped(const void *p, size_t n)
{
	struct buf z = BUF_INIT;

	zip_out_add(raw_zip, p, n, true, ZIP_BEST, &z);
	raw_send(z.data, z.len);
	buf_fini(&z);
	turn(4);
}

static void
raw_message(unsigned type, const void *msg)
{
	buf_clear(&raw_frame);
	wire_encode(type, 1, msg, &raw_frame);
	raw_zipped(raw_frame.data, raw_frame.len);
}

/* What b has said, inflated: is there a BYE with this text? */
static bool
raw_heard(const char *text)
{
	uint8_t bytes[65536];
	ssize_t n = recv(raw_fd, bytes, sizeof(bytes), 0);
	struct wire_frame f;
	struct zip_in *in;
	struct buf plain = BUF_INIT;
	size_t used;
	bool full, found = false;

	if (n <= 0 || wire_peek(bytes, (size_t)n, 1, &f) != 0 || f.type != WIRE_HELLO)
		return false;
	zip_in_open(&in);
	size_t off = f.head + f.body;
	zip_in_add(in, bytes + off, (size_t)n - off, 65536, &plain, &used, &full);
	for (off = 0;
		wire_peek(plain.data + off, plain.len - off, 1, &f) == 0 && f.type != 0;
		off += f.head + f.body)
		if (f.type == WIRE_BYE &&
			strstr((char *)plain.data + off + f.head + 1, text) != NULL)
			found = true;
	zip_in_close(in);
	buf_fini(&plain);
	return found;
}

static void
raw_close(void)
{
	close(raw_fd);
	zip_out_close(raw_zip);
	buf_fini(&raw_frame);
	end();
}

TEST(garbage_instead_of_hello)
{
	raw_open();
	t_expect_log("garbage, or a frame over its limit");
	raw_send("\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	turn(3);
	CHECK_EQ(b.code, 0);
	CHECK(raw_heard("garbage"));
	raw_close();
	CHECK_EQ(b.ended, 1);
	CHECK_EQ(b.code, ERR_PROTO);
	CHECK_EQ(b.ups, 0);
}

TEST(garbage_instead_of_deflate)
{
	raw_open();
	raw_hello();
	CHECK_EQ(b.ups, 1);
	t_expect_log("cannot inflate");
	raw_send("\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	turn(3);
	CHECK_EQ(b.downs, 1);
	CHECK(raw_heard("cannot inflate"));
	raw_close();
}

TEST(message_in_the_wrong_state)
{
	struct wire_batch batch = { 18, { (const uint8_t *)"x", 1 } };
	struct wire_start st = { 3, 1, 18, WIRE_MODE_STREAM };

	raw_open();
	raw_hello();
	t_expect_log("BATCH may not come now");
	raw_message(WIRE_BATCH, &batch);
	raw_message(WIRE_START, &st);
	raw_message(WIRE_BATCH, &batch);
	CHECK_EQ(b.messages, 0); /* nothing behind it is looked at */
	CHECK_EQ(b.downs, 1);
	CHECK(raw_heard("BATCH may not come now"));
	raw_close();
	CHECK_EQ(b.messages, 0);
}

TEST(second_hello)
{
	struct wire_hello h = { .proto_min = 1, .proto_max = 1, .name = "a" };

	raw_open();
	raw_hello();
	t_expect_log("HELLO may not come now");
	raw_message(WIRE_HELLO, &h);
	CHECK_EQ(b.downs, 1);
	raw_close();
}

TEST(message_of_a_feature_that_was_not_agreed)
{
	struct wire_want want = { 2 };

	raw_open();
	raw_hello();
	t_expect_log("WANT without the feature");
	raw_message(WIRE_WANT, &want);
	CHECK_EQ(b.downs, 1);
	raw_close();
}

TEST(unknown_type)
{
	raw_open();
	raw_hello();
	t_expect_log("a message of an unknown type");
	raw_zipped("\x02\x63\x00", 3);
	CHECK_EQ(b.downs, 1);
	raw_close();
}

/* A length over the limit is refused on its first bytes, whatever would follow. */
TEST(oversized_frame)
{
	struct wire_start st = { 3, 1, 18, WIRE_MODE_STREAM };
	struct buf f = BUF_INIT;

	raw_open();
	raw_hello();
	raw_message(WIRE_START, &st);
	t_expect_log("garbage, or a frame over its limit");
	wr_varint(&f, WIRE_BODY_MAX + 65);
	wr_u8(&f, WIRE_BODY);
	raw_zipped(f.data, f.len);
	CHECK_EQ(b.downs, 1);
	buf_fini(&f);
	raw_close();
}

/* Megabytes of zeros behind a BATCH of the largest legal size: ends at the first frame that is
 * none, and never holds more than one frame. */
TEST(bomb)
{
	struct wire_start st = { 3, 1, 18, WIRE_MODE_STREAM };
	static uint8_t zeros[8 << 20];

	raw_open();
	raw_hello();
	raw_message(WIRE_START, &st);
	t_expect_log("garbage, or a frame over its limit");
	raw_zipped(zeros, sizeof(zeros));
	CHECK_EQ(b.downs, 1);
	CHECK_EQ(b.messages, 0);
	raw_close();
}

TEST(handler_failure_drops_the_link)
{
	struct wire_start st = { 3, 1, 18, WIRE_MODE_STREAM };
	struct wire_batch batch = { 18, { (const uint8_t *)"x", 1 } };

	raw_open();
	raw_hello();
	raw_message(WIRE_START, &st);
	b.handler_says = ERR_PROTO;
	t_expect_log("peer broke the protocol");
	raw_message(WIRE_BATCH, &batch);
	CHECK_EQ(b.downs, 1);
	CHECK(raw_heard("peer broke the protocol"));
	raw_close();
}

TEST(silent_peer_is_dropped_after_ten_seconds)
{
	raw_open();
	raw_hello();
	for (int i = 0; i < 99; i++) {
		now_us += 100000;
		turn(1);
	}
	CHECK_EQ(b.downs, 0);
	t_expect_log("nothing heard for");
	now_us += 200000;
	turn(3);
	CHECK_EQ(b.downs, 1);
	CHECK(raw_heard("nothing heard"));
	raw_close();
}

TEST(no_greeting)
{
	raw_open();
	t_expect_log("no greeting within 10000 ms");
	now_us += 10100000;
	turn(3);
	CHECK_EQ(b.ended, 0);
	now_us += 3000000; /* nobody closes: the linger has its own limit */
	turn(3);
	CHECK_EQ(b.ended, 1);
	raw_close();
}

TEST(idle_pair_beats_and_stays)
{
	struct session_stats st;

	begin();
	connect_both();
	for (int i = 0; i < 600; i++) {
		now_us += 100000;
		turn(2);
	}
	CHECK_EQ(a.downs + b.downs, 0);
	session_stats(a.s, &st);
	CHECK(st.sent[WIRE_HEARTBEAT].messages >= 50);
	CHECK(st.sent[WIRE_HEARTBEAT].messages <= 60);
	end_pair();
}

/* What a burst came to is shared by size; nothing is lost or made up. */
TEST(what_was_booked_is_shared_out)
{
	static uint8_t noise[600000];
	struct wire_batch batch = { 18, { noise, 30000 } };
	struct session_stats before, st;

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)t_rand(); /* does not deflate */
	begin();
	connect_both();
	start(&a);
	session_stats(a.s, &before);
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
	session_book(a.s, 3, 1, 20000);
	session_book(a.s, 4, 2, 10000);
	turn(3);
	session_stats(a.s, &st);
	CHECK_EQ(st.books[3].n, 1);
	CHECK_EQ(st.books[4].n, 2);
	CHECK(st.books[3].bytes >= 20000 && st.books[3].bytes < 20100);
	CHECK(st.books[4].bytes >= 10000 && st.books[4].bytes < 10050);
	CHECK(st.books[3].bytes + st.books[4].bytes <= st.zip_sent - before.zip_sent);
	/* in several steps of deflate; nobody booked the half of it */
	before = st;
	batch = (struct wire_batch){ 19, { noise, sizeof(noise) } };
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
	session_book(a.s, 4, 1, sizeof(noise) / 2);
	turn(20);
	session_stats(a.s, &st);
	CHECK_EQ(b.messages, 2);
	CHECK_EQ(st.books[3].bytes, before.books[3].bytes);
	CHECK(st.books[4].bytes - before.books[4].bytes > 299000 &&
		st.books[4].bytes - before.books[4].bytes < 301000);
	end_pair();
}

TEST(busy_pair_does_not_beat)
{
	struct wire_batch batch = { 18, { (const uint8_t *)"x", 1 } };
	struct session_stats st;

	begin();
	connect_both();
	start(&a);
	for (int i = 0; i < 100; i++) {
		now_us += 500000;
		session_send(a.s, WIRE_BATCH, &batch);
		turn(2);
	}
	CHECK_EQ(b.messages, 100);
	session_stats(a.s, &st);
	CHECK_EQ(st.sent[WIRE_HEARTBEAT].messages, 0);
	end_pair();
}

TEST(lost_line)
{
	begin();
	connect_both();
	t_expect_log("closed by the peer");
	t_expect_log("closed by the peer");
	memlink_cut(link_a);
	turn(3);
	CHECK_EQ(a.downs, 1);
	CHECK_EQ(b.downs, 1);
	CHECK_EQ(a.code, ERR_LINK);
	CHECK_EQ(a.ended + b.ended, 2);
	end();
}

/* Bulk is refused over the mark and called for again; small messages still go. */
TEST(back_pressure)
{
	static uint8_t noise[WIRE_BODY_MAX];
	struct wire_body body = { .total = sizeof(noise),
		.data = { noise, sizeof(noise) } };
	struct wire_batch batch = { 18, { (const uint8_t *)"x", 1 } };
	int sent = 0, rc = 0;

	begin();
	connect_both();
	start(&a);
	memlink_stall(link_a, true);
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)t_rand();
	while (sent < 1000 && (rc = session_send(a.s, WIRE_BODY, &body)) == 0)
		sent++;
	CHECK_EQ(rc, ERR_BUSY);
	CHECK(sent >= 32 && sent < 40);
	CHECK(session_full(a.s));
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), ERR_BUSY);
	turn(5);
	CHECK_EQ(a.drains, 0);
	struct wire_gone gone = { { 1 } };
	CHECK_EQ(session_send(a.s, WIRE_GONE, &gone), 0);
	t_expect_log("nobody here takes BODY"); /* b: it arrived */
	t_expect_log("the peer says");
	memlink_stall(link_a, false);
	turn(200);
	CHECK_EQ(b.downs, 1);
	end();
}

/* While a node has no room nothing is read for it, however long that takes, and nobody takes the
 * other for dead; then it goes on. */
TEST(no_room_is_waited_for)
{
	struct wire_batch batch = { 18, { NULL, 60000 } };
	static uint8_t noise[60000];
	int sent = 0, before;

	begin();
	connect_both();
	start(&a);
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)t_rand();
	batch.bytes.p = noise;
	b.no_room = true;
	while (session_send(a.s, WIRE_BATCH, &batch) == 0)
		sent++;
	for (int i = 0; i < 60; i++) {
		now_us += 500000;
		turn(3);
	}
	CHECK_EQ(b.messages, 0);
	CHECK_EQ(a.downs + b.downs, 0);
	/* One turn's worth of room at a time. */
	b.no_room = false;
	turn(1);
	b.no_room = true;
	turn(20);
	before = b.messages;
	CHECK(before < sent);
	turn(20);
	CHECK_EQ(b.messages, before);
	b.no_room = false;
	for (int i = 0; i < 1000 && b.messages < sent; i++)
		turn(1);
	CHECK_EQ(b.messages, sent);
	/* A line that is lost is seen all the same. */
	b.no_room = true;
	turn(2);
	t_expect_log("closed by the peer");
	t_expect_log("closed by the peer");
	memlink_cut(link_a);
	turn(3);
	CHECK_EQ(b.downs, 1);
	end();
}

TEST(drained_is_called)
{
	struct wire_batch batch = { 18, { NULL, 60000 } };
	static uint8_t noise[60000];
	int sent = 0;

	begin();
	connect_both();
	start(&a);
	memlink_stall(link_a, true);
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)t_rand();
	batch.bytes.p = noise;
	while (session_send(a.s, WIRE_BATCH, &batch) == 0)
		sent++;
	memlink_stall(link_a, false);
	for (int i = 0; i < 1000 && b.messages < sent; i++)
		turn(1);
	CHECK_EQ(b.messages, sent);
	CHECK_EQ(a.drains, 1);
	CHECK(!session_full(a.s));
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
	turn(10);
	CHECK_EQ(b.messages, sent + 1);
	end_pair();
}

/* A batch far larger than any buffer of the line. */
TEST(big_batch)
{
	struct wire_batch batch = { 18, { NULL, 20 << 20 } };
	uint8_t *noise = malloc(20 << 20);

	begin();
	connect_both();
	start(&a);
	for (size_t i = 0; i < 20 << 20; i++)
		noise[i] = (uint8_t)(t_rand() % 16);
	batch.bytes.p = noise;
	CHECK_EQ(session_send(a.s, WIRE_BATCH, &batch), 0);
	free(noise); /* it was copied */
	for (int i = 0; i < 5000 && b.messages == 0; i++)
		turn(1);
	CHECK_EQ(b.messages, 1);
	end_pair();
}

T_MAIN
