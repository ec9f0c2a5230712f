/*
 * test_older.c - an active side whose clients wait for a standby of an older version: one that says
 * no feature bit in HELLO, knows neither WANT nor CONFIRM, and acknowledges as it always did.
 *
 * The standby is a script here (tests/lib/side.h) that lists no mailbox as different and sends just
 * the ACKs that a test asks for.
 */
#include "meta/batch.h"
#include "meta/base/err.h"
#include "tests/lib/side.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define NOBODY 99

static struct duo d;
static struct rig A;
static atomic_int code; /* of the last answer */

static struct side b;
static uint64_t mail; /* the last row that came with a message */
static int wants, told;
static bool compared;

static int
on_start(void *node, struct session *s, const void *msg)
{
	const struct wire_start *m = msg;

	(void)node, (void)s;
	compared = m->mode == WIRE_MODE_STREAM;
	return 0;
}

static int
on_sums(void *node, struct session *s, const void *msg)
{
	struct wire_diff none = { .last = true };

	(void)node;
	if (!((const struct wire_sums *)msg)->last)
		return 0;
	compared = true;
	return session_send(s, WIRE_DIFF, &none);
}

static int
on_batch(void *node, struct session *s, const void *msg)
{
	const struct wire_batch *m = msg;
	struct batch rows;

	(void)node, (void)s;
	if (batch_decode(m->bytes.p, m->bytes.n, &rows) != 0)
		return ERR_PROTO;
	for (size_t i = 0; i < rows.n; i++)
		if (rows.changes[i].kind == CHANGE_RECORD)
			mail = m->seq;
	batch_fini(&rows);
	return 0;
}

static int
on_want(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	wants++;
	return 0;
}

static int
on_quarantine(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	told++;
	return 0;
}

#define UNTIL(so) SIDE_UNTIL(&b, so)

static void
start_b(uint64_t without)
{
	b = (struct side){ .without = without,
		.hears = { [WIRE_START] = on_start,
			[WIRE_BATCH] = on_batch,
			[WIRE_SUMS] = on_sums,
			[WIRE_QUARANTINE] = on_quarantine,
			[WIRE_WANT] = on_want } };
	mail = 0;
	wants = told = 0;
	compared = false;
	side_open(&b, &d);
}

static void
begin(enum sync_level level, uint64_t without)
{
	duo_open(&d);
	d.level = level;
	start_b(without);
	duo_start_a(&d);
	UNTIL(b.up != NULL && compared);
	duo_create(&d, &A, "box/a", "id-a");
}

static void
end(void)
{
	duo_stop_a(&d, false);
	side_close(&b);
	rig_fini(&A);
	duo_close(&d);
}

static void
on_answer(void *arg, int rc)
{
	(void)arg;
	code = rc;
}

/* A message is delivered, and its client waits; the row is at the standby. Its seq. */
static uint64_t
deliver(void)
{
	uint64_t give_up = clock_ms() + t_limit(10000);

	code = NOBODY;
	(void)rig_append(&A, 500);
	duo_commit(&d, &A);
	if (!sync_confirm(d.sync, 1u << SYNC_DELIVERY, on_answer, NULL))
		t_fail(__FILE__, __LINE__, "nothing is waited for");
	while (mail == 0 && clock_ms() < give_up)
		loop_turn(b.loop, 10);
	if (mail == 0)
		t_fail(__FILE__, __LINE__, "the row does not come");
	return mail;
}

/* Is the client answered by this ACK? It has been looked at when the next one is counted. */
static bool
answered(uint64_t received, uint64_t flushed, uint64_t applied)
{
	struct wire_ack m = { received, flushed, applied };
	uint64_t end = clock_ms() + 300;

	if (b.up == NULL || session_send(b.up, WIRE_ACK, &m) != 0)
		t_fail(__FILE__, __LINE__, "the session is lost");
	while (code == NOBODY && clock_ms() < end)
		loop_turn(b.loop, 10);
	return code == 0;
}

TEST(received_is_what_an_ack_calls_received)
{
	begin(SYNC_RECEIVED, WIRE_FEATURES);
	uint64_t seq = deliver();
	CHECK(!answered(seq - 1, 0, 0));
	CHECK(answered(seq, 0, 0));
	CHECK_EQ(wants, 0);
	CHECK_EQ(told, 0);
	end();
}

TEST(flushed_is_what_an_ack_calls_flushed_and_not_skipped)
{
	begin(SYNC_FLUSHED, WIRE_FEATURES);
	uint64_t seq = deliver();
	CHECK(!answered(seq, 0, 0));
	CHECK(!answered(seq, 0, seq)); /* to be seen, but not on disk yet */
	/* It says so of a row that it skipped too, and stays behind with what is to be seen. */
	CHECK(!answered(seq, seq, seq - 1));
	CHECK(answered(seq, seq, seq));
	CHECK_EQ(wants, 0);
	end();
}

TEST(applied_is_what_is_flushed_and_to_be_seen)
{
	begin(SYNC_APPLIED, WIRE_FEATURES);
	uint64_t seq = deliver();
	CHECK(!answered(seq, 0, seq));
	CHECK(!answered(seq, seq, seq - 1));
	CHECK(answered(seq, seq, seq));
	end();
}

/* What would hide a mistake above: a standby that knows levels is told them, and its ACKs
 * confirm nothing. */
TEST(a_standby_of_this_version_is_asked)
{
	struct wire_confirm m;

	begin(SYNC_FLUSHED, 0);
	UNTIL(wants == 1);
	CHECK_EQ(told, 1); /* that nothing is withheld */
	uint64_t seq = deliver();
	CHECK(!answered(seq, seq, seq));
	m = (struct wire_confirm){ 0, seq, 0 };
	CHECK_EQ(session_send(b.up, WIRE_CONFIRM, &m), 0);
	UNTIL(code == 0);
	end();
}

/* It may come as a new one next time, and the other way round. */
TEST(a_standby_may_change_its_version_between_sessions)
{
	begin(SYNC_FLUSHED, 0);
	UNTIL(wants == 1);
	for (int i = 0; i < 2; i++) {
		side_close(&b);
		start_b(i == 0 ? WIRE_FEATURES : 0);
		UNTIL(b.up != NULL && compared);
	}
	UNTIL(wants == 1);
	end();
}

T_MAIN
