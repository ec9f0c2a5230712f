/*
 * test_hostile.c - what a peer may not say, and what we may not: messages that break the protocol,
 * and confirmations that would answer somebody too early.
 *
 * One side is a whole node (tests/lib/duo.h), the other a hub of this test with its partner's key.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/batch.h"
#include "sync/hub.h"
#include "sync/link.h"
#include "sync/loop.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct duo d;
static struct rig A, B;
static struct link_tls *tls;
static struct loop *loop;
static struct hub *hub;
static struct session *up;
static uint64_t features;
static char ended[SESSION_SAID];
/* what was heard */
static unsigned starts, records, needs;
static uint8_t needed[SHA1_LEN]; /* of the last NEED */
static uint64_t last_batch;
static struct wire_ack acked;
static struct wire_confirm confirmed; /* the most, since RECORDS came */

static bool as_active; /* the hub of this test */

static void
on_hello(void *node, struct session *s, struct wire_hello *h)
{
	(void)node, (void)s;
	h->spool_id = as_active ? "a" : "b";
	h->role = as_active ? SYNC_ACTIVE : SYNC_STANDBY;
	h->epoch = h->run = as_active;
	h->features |= features;
}

static void
on_up(void *node, struct session *s)
{
	(void)node;
	up = s;
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

static int
take(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	return 0;
}

static int
on_start(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	starts++;
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
on_need(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s;
	memcpy(needed, ((const struct wire_need *)msg)->guid, SHA1_LEN);
	needs++;
	return 0;
}

static int
on_ack(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s;
	acked = *(const struct wire_ack *)msg;
	return 0;
}

static int
on_records(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	records++;
	memset(&confirmed, 0, sizeof(confirmed));
	return 0;
}

static int
on_confirm(void *node, struct session *s, const void *msg)
{
	const struct wire_confirm *m = msg;

	(void)node, (void)s;
	if (m->received > confirmed.received)
		confirmed.received = m->received;
	if (m->flushed > confirmed.flushed)
		confirmed.flushed = m->flushed;
	if (m->applied > confirmed.applied)
		confirmed.applied = m->applied;
	return 0;
}

static const struct session_ops ops = { on_hello, NULL, on_up, on_down, on_drained,
	NULL, NULL,
	{ [WIRE_START] = on_start,
		[WIRE_BATCH] = on_batch,
		[WIRE_BODY] = take,
		[WIRE_GONE] = take,
		[WIRE_NEED] = on_need,
		[WIRE_ACK] = on_ack,
		[WIRE_SUMS] = take,
		[WIRE_DIFF] = take,
		[WIRE_LIST] = take,
		[WIRE_RECORDS] = on_records,
		[WIRE_QUARANTINE] = take,
		[WIRE_VERIFY] = take,
		[WIRE_WANT] = take,
		[WIRE_CONFIRM] = on_confirm } };

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

static void
open_hub(void)
{
	char at[40];
	struct hub_peer_conf pc = { .name = as_active ? "b" : "a",
		.address = as_active ? at : "" };
	const char *print = as_active ? d.print_b : d.print_a;

	up = NULL;
	starts = records = 0;
	last_batch = 0;
	memset(&acked, 0, sizeof(acked));
	snprintf(at, sizeof(at), "127.0.0.1:%u", d.port);
	if (loop_open(&loop) != 0 ||
		link_tls_open(as_active ? d.state_a : d.state_b, &tls) != 0 ||
		hash_unhex(print + strlen("sha256:"), pc.fingerprint,
			sizeof(pc.fingerprint)) != 0)
		t_fail(__FILE__, __LINE__, "no hub");
	struct hub_conf conf = { .loop = loop,
		.name = as_active ? "a" : "b",
		.listen = as_active ? NULL : at,
		.tls = tls,
		.peers = &pc,
		.n_peers = 1,
		.ops = &ops };
	CHECK_EQ(hub_open(&conf, &hub), 0);
}

static void
end(void)
{
	duo_close(&d);
	hub_close(hub, 100);
	link_tls_close(tls);
	loop_close(loop);
}

/* ---- an active side that means ill, and a standby ---- */

static struct wire_start start = { 1, 1, 1, WIRE_MODE_STREAM };

static void
begin_as_active(const struct wire_start *with)
{
	log_set_hook(duo_log);
	duo_open(&d);
	as_active = true;
	features = 0;
	duo_start_b(&d);
	open_hub();
	UNTIL(up != NULL);
	session_send(up, WIRE_START, with);
}

/* One change of a path; of a file it waits for the content, which nobody sends. */
static void
send_path(uint64_t seq, enum change_kind kind)
{
	struct buf bytes = BUF_INIT;
	struct batch b;

	batch_init(&b);
	struct change *c = batch_add(&b, kind);
	c->u.path =
		(struct change_path){ .path = kind == CHANGE_FILE ? "file" : "folder",
			.uid = getuid(),
			.gid = getgid(),
			.mode = kind == CHANGE_FILE ? 0100600 : 040700,
			.size = 10 };
	CHECK_EQ(batch_encode(&b, &bytes), 0);
	struct wire_batch m = { seq, { bytes.data, bytes.len } };
	session_send(up, WIRE_BATCH, &m);
	buf_fini(&bytes);
	batch_fini(&b);
}

/* It needs nothing that was before. */
static void
send_folder(uint64_t seq)
{
	send_path(seq, CHANGE_DIR);
}

static void
body(const void *guid, uint64_t total, uint64_t offset, size_t n)
{
	static const uint8_t bytes[1000] = "of a message";
	struct wire_body m = { .total = total, .offset = offset, .data = { bytes, n } };

	memcpy(m.guid, guid, SHA1_LEN);
	session_send(up, WIRE_BODY, &m);
}

static void
a_small_body_of_another_sha1(void)
{
	body("twenty bytes as a key", 100, 0, 100);
}

static void
a_body_longer_than_it_says(void)
{
	body("twenty bytes as a key", 100, 0, 60);
	body("twenty bytes as a key", 100, 60, 60);
}

static void
a_body_with_a_gap(void)
{
	body("twenty bytes as a key", 500, 0, 60);
	body("twenty bytes as a key", 500, 90, 60);
}

static void
a_body_that_goes_on_as_another(void)
{
	body("twenty bytes as a key", 500, 0, 60);
	body("another twenty bytes", 500, 60, 60);
}

static void
a_row_twice(void)
{
	send_folder(2);
	send_folder(2);
}

static void
a_row_of_before(void)
{
	send_folder(3);
	send_folder(2);
}

static void
a_row_that_is_none(void)
{
	struct wire_batch m = { 2, { (const uint8_t *)"\377\377\377", 3 } };

	session_send(up, WIRE_BATCH, &m);
}

TEST(a_standby_ends_the_session_of_whoever_breaks_the_protocol)
{
	static const struct {
		void (*say)(void);
		const char *answer;
	} cases[] = { { a_small_body_of_another_sha1, "not what its GUID says" },
		{ a_body_longer_than_it_says, "BODY longer than it says" },
		{ a_body_with_a_gap, "BODY out of order" },
		{ a_body_that_goes_on_as_another, "BODY out of order" },
		{ a_row_twice, "BATCH out of order" },
		{ a_row_of_before, "BATCH out of order" },
		{ a_row_that_is_none, "does not decode" } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin_as_active(&start);
		send_folder(1);
		UNTIL(acked.flushed == 1);
		cases[i].say();
		UNTIL(up == NULL);
		if (strstr(ended, cases[i].answer) == NULL)
			t_fail(__FILE__, __LINE__, "case %zu: %s", i, ended);
		/* and it serves on: what was right is there */
		UNTIL(up != NULL);
		duo_stop_b(&d, false);
		CHECK_EQ(duo_standby(&d).asides, 0);
		CHECK(duo_exists(d.root_b, "folder"));
		end();
		duo_sh("rm -rf %s/*", t_tmpdir());
	}
}

/* A row that does not fit is skipped, for a repair will state it: until that came, nothing from it
 * on is confirmed. */
TEST(a_row_that_was_skipped_is_not_confirmed)
{
	const struct wire_want want = { 1u << SYNC_RECEIVED | 1u << SYNC_FLUSHED |
					1u << SYNC_APPLIED };
	struct buf bytes = BUF_INIT;
	struct batch b;

	begin_as_active(&start);
	session_send(up, WIRE_WANT, &want);
	send_folder(1);
	UNTIL(confirmed.applied == 1);
	batch_init(&b);
	b.dir = "box/a";
	b.uniqueid = "id-a";
	b.before = (struct sum){ 1, 1 };
	b.after = (struct sum){ 2, 2 };
	CHECK_EQ(batch_encode(&b, &bytes), 0);
	struct wire_batch m = { 2, { bytes.data, bytes.len } };
	session_send(up, WIRE_BATCH, &m);
	UNTIL(records == 1);
	send_folder(3);
	UNTIL(acked.received == 3);
	turn_for(700); /* a recording and more */
	/* That it is on disk was said when it came. */
	CHECK(confirmed.received <= 2);
	CHECK(confirmed.flushed <= 2);
	CHECK(confirmed.applied <= 1);
	CHECK_EQ(acked.applied, 1);
	buf_fini(&bytes);
	duo_stop_b(&d, false);
	end();
}

static void
send_removal(uint64_t seq, const char *dir)
{
	struct buf bytes = BUF_INIT;
	struct batch b;

	batch_init(&b);
	b.flags = BATCH_REMOVE | BATCH_DERIVED;
	b.dir = dir;
	CHECK_EQ(batch_encode(&b, &bytes), 0);
	struct wire_batch m = { seq, { bytes.data, bytes.len } };
	session_send(up, WIRE_BATCH, &m);
	buf_fini(&bytes);
	b.dir = "";
	batch_fini(&b);
}

/* It does not know what an active side withholds before that has said so, and then it does. */
TEST(what_a_standby_removes_before_it_was_told_is_kept)
{
	static const struct wire_start later = { 1, UINT64_MAX / 4, 1,
		WIRE_MODE_STREAM };
	struct wire_quarantine nothing = { "", 0, "", "" };

	CHECK(duo_two(&d, &A, &B));
	rig_append(&B, 300);
	duo_commit(&d, &B);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	duo_stop_a(&d, true);
	as_active = true;
	features = 0;
	duo_start_b(&d);
	open_hub();
	UNTIL(up != NULL);
	session_send(up, WIRE_START, &later);
	send_removal(1, "box/a");
	UNTIL(acked.applied == 1);
	CHECK_EQ(duo_kept(d.root_b), 3);
	session_send(up, WIRE_QUARANTINE, &nothing);
	send_removal(2, "box/b");
	UNTIL(acked.applied == 2);
	CHECK(!duo_exists(d.root_b, "box/b"));
	CHECK_EQ(duo_kept(d.root_b), 3);
	end();
}

/* ---- an active side whose clock, or journal, has gone back ---- */

/* It was given up, and begins anew with that START. */
static void
begin_anew(const struct wire_start *with)
{
	session_end(up, WIRE_BYE_STOP, "again");
	UNTIL(up == NULL);
	UNTIL(up != NULL);
	memset(&acked, 0, sizeof(acked));
	session_send(up, WIRE_START, with);
}

/* Its rows count below one that still waits: that does not make them known. */
TEST(rows_below_what_is_replayed_are_not_taken_for_known)
{
	static const struct wire_start high = { 1, 1000, 1, WIRE_MODE_STREAM },
				       low = { 1, 10, 1, WIRE_MODE_COMPARE };
	struct wire_gone gone;

	begin_as_active(&high);
	needs = 0;
	send_path(1, CHANGE_FILE);
	UNTIL(needs == 1);
	begin_anew(&low);
	UNTIL(needs == 2);
	send_path(1, CHANGE_DIR);
	turn_for(300); /* it has arrived */
	memcpy(gone.guid, needed, SHA1_LEN);
	session_send(up, WIRE_GONE, &gone);
	UNTIL(duo_exists(d.root_b, "folder"));
	end();
}

/* What was logged under higher numbers does not come back behind a crash. */
TEST(the_log_of_what_arrived_goes_with_its_numbers)
{
	static const struct wire_start high = { 1, 1000, 1, WIRE_MODE_STREAM },
				       low = { 1, 10, 1, WIRE_MODE_COMPARE };
	static const struct wire_want want = { 1u << SYNC_FLUSHED };

	begin_as_active(&high);
	session_send(up, WIRE_WANT, &want);
	send_path(1, CHANGE_DIR);
	UNTIL(acked.flushed == 1);
	begin_anew(&low);
	send_path(1, CHANGE_DELETE);
	UNTIL(acked.flushed == 1);
	CHECK(!duo_exists(d.root_b, "folder"));
	duo_stop_b(&d, true);
	UNTIL(up == NULL);
	duo_start_b(&d);
	UNTIL(up != NULL);
	CHECK_EQ(session_hello(up)->held_run, 10);
	duo_stop_b(&d, false);
	CHECK(!duo_exists(d.root_b, "folder"));
	end();
}

/* Of another run than what it holds it would say too much. */
TEST(what_was_applied_of_an_older_run_is_not_said_of_this_one)
{
	static const struct wire_start old = { 1, 10, 50, WIRE_MODE_STREAM },
				       new = { 1, 1000, 1, WIRE_MODE_STREAM };

	begin_as_active(&old);
	send_path(50, CHANGE_DIR);
	UNTIL(acked.flushed == 50);
	begin_anew(&new);
	needs = 0;
	send_path(1, CHANGE_FILE);
	UNTIL(needs == 1);
	begin_anew(&new);
	CHECK_EQ(session_hello(up)->held_run, 1000);
	CHECK_EQ(session_hello(up)->held_received, 1);
	CHECK_EQ(session_hello(up)->held_applied, 0);
	end();
}

/* ---- a standby that means ill, and an active side ---- */

static void
begin_as_standby(enum sync_level level, uint64_t with)
{
	log_set_hook(duo_log);
	duo_open(&d);
	as_active = false;
	features = with;
	open_hub();
	d.level = level;
	duo_start_a(&d);
	UNTIL(starts > 0);
}

TEST(an_active_side_ends_the_session_of_whoever_has_more_than_it_sent)
{
	const struct {
		struct wire_ack ack;
		struct wire_confirm confirm;
		const char *answer;
	} cases[] = { { { 99, 0, 0 }, { 0, 0, 0 }, "ACK beyond" },
		{ { 1, 2, 0 }, { 0, 0, 0 }, "ACK beyond" },
		{ { 1, 0, 2 }, { 0, 0, 0 }, "ACK beyond" },
		{ { 0, 0, 0 }, { 99, 0, 0 }, "CONFIRM beyond" },
		{ { 0, 0, 0 }, { 0, 99, 0 }, "CONFIRM beyond" },
		{ { 0, 0, 0 }, { 0, 0, 99 }, "CONFIRM beyond" } };

	begin_as_standby(SYNC_FLUSHED, 0);
	duo_create(&d, &A, "box/a", "id-a");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		UNTIL(up != NULL && starts > 0 && (i > 0 || last_batch >= 2));
		if (cases[i].ack.received > 0)
			session_send(up, WIRE_ACK, &cases[i].ack);
		else
			session_send(up, WIRE_CONFIRM, &cases[i].confirm);
		UNTIL(up == NULL);
		starts = 0;
		if (strstr(ended, cases[i].answer) == NULL)
			t_fail(__FILE__, __LINE__, "case %zu: %s", i, ended);
	}
	end();
}

static void
answered(void *arg, int code)
{
	*(_Atomic int *)arg = code == 0 ? 1 : 2;
}

/* Not before the comparison is through, and then not for what it was before: rows of the comparison
 * are what makes the peer equal. */
TEST(a_peer_that_is_compared_confirms_nothing_of_before)
{
	static _Atomic int told;
	struct wire_records m = { .dir = "box/a", .uniqueid = "", .last = true };
	struct wire_diff through = { { NULL, 0 }, true };

	begin_as_standby(SYNC_FLUSHED, WIRE_FEATURE_LOST);
	duo_create(&d, &A, "box/a", "id-a");
	rig_append(&A, 300);
	duo_commit(&d, &A);
	told = 0;
	CHECK(sync_confirm(d.sync, 1u << SYNC_DELIVERY, answered, &told));
	UNTIL(last_batch > 1);
	turn_for(200);
	uint64_t before = last_batch;
	struct wire_confirm c = { before, before, before };
	session_send(up, WIRE_CONFIRM, &c);
	turn_for(300);
	CHECK_EQ(told, 0);
	session_send(up, WIRE_RECORDS, &m);
	UNTIL(last_batch > before);
	session_send(up, WIRE_DIFF, &through);
	turn_for(300);
	CHECK_EQ(told, 0);
	c = (struct wire_confirm){ last_batch, last_batch, last_batch };
	session_send(up, WIRE_CONFIRM, &c);
	UNTIL(told == 1);
	end();
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
