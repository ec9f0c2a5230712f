/*
 * side.h - one side of the line that a test speaks for itself: a hub with the key of a duo's a or b,
 * which says hello, counts what it hears, and says what the test tells it to.
 *
 * Threads  the test's; the line moves while it turns.
 */
#ifndef TESTS_LIB_SIDE_H
#define TESTS_LIB_SIDE_H

#include "meta/base/clock.h"
#include "sync/hub.h"
#include "sync/loop.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

struct side {
	/* set before it is opened, or as long as it lives */
	bool as_active; /* it is a, else b */
	uint64_t features; /* said in HELLO besides those that every side says */
	uint64_t without; /* features that it does not have */
	session_handler *hears[WIRE_TYPES]; /* in place of its own; node is the side */
	bool deaf; /* it reads nothing */
	/* the line */
	struct loop *loop;
	struct link_tls *tls;
	struct hub *hub;
	struct session *up; /* NULL: there is none */
	struct session_ops ops;
	unsigned ups;
	char ended[SESSION_SAID]; /* why the last one did */
	/* what was heard since it was opened */
	unsigned starts, records, needs, gones, named; /* named: mailboxes in DIFF */
	uint64_t last_batch, body_bytes;
	uint8_t needed[SHA1_LEN]; /* of the last NEED */
	struct wire_ack acked;
	unsigned early_acks; /* that had more to say soon */
	struct wire_confirm confirmed; /* the most, since RECORDS came */
};

/* Listens or dials as the duo's a or b would; all that is not set before is zero afterwards. */
void side_open(struct side *s, struct duo *d);
void side_close(struct side *s);
void side_turn(struct side *s, uint64_t ms);

/* Turns until so, for some seconds at most. */
#define SIDE_UNTIL(side, so) \
	do { \
		uint64_t until_end = clock_ms() + DUO_WAIT_MS; \
		while (!(so) && clock_ms() < until_end) \
			loop_turn((side)->loop, 10); \
		CHECK(so); \
	} while (0)

#endif
