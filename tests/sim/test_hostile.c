/*
 * test_hostile.c - what a peer may not say, and what we may not: messages that break the protocol,
 * and confirmations that would answer somebody too early.
 *
 * One side is a whole node (tests/lib/duo.h), the other a script (tests/lib/side.h).
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/batch.h"
#include "tests/lib/side.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct duo d;
static struct rig A, B;
static struct side peer; /* the other side of the line */

#define UNTIL(so) SIDE_UNTIL(&peer, so)

static void
end(void)
{
	duo_close(&d);
	side_close(&peer);
}

/* ---- an active side that means ill, and a standby ---- */

static struct wire_start start = { 1, 1, 1, WIRE_MODE_STREAM };

/* Starts the standby of d, with this test as its active side. */
static void
speak_as_active(const struct wire_start *with)
{
	peer.as_active = true;
	peer.features = 0;
	duo_start_b(&d);
	side_open(&peer, &d);
	UNTIL(peer.up != NULL);
	session_send(peer.up, WIRE_START, with);
}

static void
begin_as_active(const struct wire_start *with)
{
	log_set_hook(duo_log);
	duo_open(&d);
	speak_as_active(with);
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
	session_send(peer.up, WIRE_BATCH, &m);
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
	session_send(peer.up, WIRE_BODY, &m);
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

	session_send(peer.up, WIRE_BATCH, &m);
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
		UNTIL(peer.acked.flushed == 1);
		cases[i].say();
		UNTIL(peer.up == NULL);
		if (strstr(peer.ended, cases[i].answer) == NULL)
			t_fail(__FILE__, __LINE__, "case %zu: %s", i, peer.ended);
		/* and it serves on: what was right is there */
		UNTIL(peer.up != NULL);
		duo_stop_b(&d, false);
		CHECK_EQ(duo_standby(&d).asides, 0);
		CHECK(duo_exists(d.root_b, "folder"));
		end();
		duo_sh("rm -rf %s/*", t_tmpdir());
	}
}

/* One that is soon applied is not acknowledged twice; one that is not, all the same. */
TEST(an_acknowledgement_waits_a_moment_for_what_it_can_say)
{
	enum { ROWS = 50 };

	begin_as_active(&start);
	peer.early_acks = 0;
	for (uint64_t seq = 1; seq <= ROWS; seq++) {
		send_folder(seq);
		UNTIL(peer.acked.applied == seq);
	}
	CHECK(peer.early_acks <
		ROWS); /* now and then a machine takes longer than that */
	send_path(ROWS + 1, CHANGE_FILE);
	UNTIL(peer.acked.received == ROWS + 1);
	CHECK_EQ(peer.acked.applied, ROWS);
	end();
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
	session_send(peer.up, WIRE_WANT, &want);
	send_folder(1);
	UNTIL(peer.confirmed.applied == 1);
	batch_init(&b);
	b.dir = "box/a";
	b.uniqueid = "id-a";
	b.before = (struct sum){ 1, 1 };
	b.after = (struct sum){ 2, 2 };
	CHECK_EQ(batch_encode(&b, &bytes), 0);
	struct wire_batch m = { 2, { bytes.data, bytes.len } };
	session_send(peer.up, WIRE_BATCH, &m);
	UNTIL(peer.records == 1);
	send_folder(3);
	UNTIL(peer.acked.received == 3);
	side_turn(&peer, 700); /* a recording and more */
	/* That it is on disk was said when it came. */
	CHECK(peer.confirmed.received <= 2);
	CHECK(peer.confirmed.flushed <= 2);
	CHECK(peer.confirmed.applied <= 1);
	CHECK_EQ(peer.acked.applied, 1);
	buf_fini(&bytes);
	duo_stop_b(&d, false);
	end();
}

static void
send_batch(uint64_t seq, const struct batch *b, struct buf *bytes)
{
	buf_clear(bytes);
	CHECK_EQ(batch_encode(b, bytes), 0);
	struct wire_batch m = { seq, { bytes->data, bytes->len } };
	session_send(peer.up, WIRE_BATCH, &m);
}

/* A standby that has two mailboxes, with three messages and one. */
static void
begin_behind_two(const struct wire_start *with)
{
	CHECK(duo_two(&d, &A, &B));
	rig_append(&B, 300);
	duo_commit(&d, &B);
	CHECK(duo_settled(&d));
	duo_stop_b(&d, false);
	duo_stop_a(&d, true);
	speak_as_active(with);
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
	session_send(peer.up, WIRE_BATCH, &m);
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

	begin_behind_two(&later);
	send_removal(1, "box/a");
	UNTIL(peer.acked.applied == 1);
	CHECK_EQ(duo_kept(d.root_b), 3);
	session_send(peer.up, WIRE_QUARANTINE, &nothing);
	send_removal(2, "box/b");
	UNTIL(peer.acked.applied == 2);
	CHECK(!duo_exists(d.root_b, "box/b"));
	CHECK_EQ(duo_kept(d.root_b), 3);
	end();
}

/* It is cured under the name that it has then, and all is confirmed again. */
TEST(a_row_that_was_skipped_is_not_waited_for_under_a_former_name)
{
	static const struct wire_start later = { 1, UINT64_MAX / 4, 1,
		WIRE_MODE_STREAM };
	struct buf bytes = BUF_INIT;
	struct wire_dir now = { "box/m" };
	struct wire_diff nothing = { { &now, 1 }, false };
	struct batch b;

	begin_behind_two(&later);
	batch_init(&b);
	b.dir = "box/a";
	b.uniqueid = "id-a";
	b.before = (struct sum){ 1, 1 };
	b.after = (struct sum){ 2, 2 };
	send_batch(1, &b, &bytes);
	UNTIL(peer.records == 1);
	batch_init(&b);
	struct change *c = batch_add(&b, CHANGE_MOVE);
	c->u.path = (struct change_path){ .path = "box/a", .target = "box/m" };
	send_batch(2, &b, &bytes);
	batch_fini(&b);
	UNTIL(peer.records == 2);
	session_send(peer.up, WIRE_DIFF, &nothing);
	send_folder(3);
	UNTIL(peer.acked.applied == 3);
	buf_fini(&bytes);
	end();
}

/* ---- an active side whose clock, or journal, has gone back ---- */

/* It was given up, and begins anew with that START. */
static void
begin_anew(const struct wire_start *with)
{
	session_end(peer.up, WIRE_BYE_STOP, "again");
	UNTIL(peer.up == NULL);
	UNTIL(peer.up != NULL);
	memset(&peer.acked, 0, sizeof(peer.acked));
	session_send(peer.up, WIRE_START, with);
}

/* Its rows count below one that still waits: that does not make them known. */
TEST(rows_below_what_is_replayed_are_not_taken_for_known)
{
	static const struct wire_start high = { 1, 1000, 1, WIRE_MODE_STREAM },
				       low = { 1, 10, 1, WIRE_MODE_COMPARE };
	struct wire_gone gone;

	begin_as_active(&high);
	peer.needs = 0;
	send_path(1, CHANGE_FILE);
	UNTIL(peer.needs == 1);
	begin_anew(&low);
	UNTIL(peer.needs == 2);
	send_path(1, CHANGE_DIR);
	side_turn(&peer, 300); /* it has arrived */
	memcpy(gone.guid, peer.needed, SHA1_LEN);
	session_send(peer.up, WIRE_GONE, &gone);
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
	session_send(peer.up, WIRE_WANT, &want);
	send_path(1, CHANGE_DIR);
	UNTIL(peer.acked.flushed == 1);
	begin_anew(&low);
	send_path(1, CHANGE_DELETE);
	UNTIL(peer.acked.flushed == 1);
	CHECK(!duo_exists(d.root_b, "folder"));
	duo_stop_b(&d, true);
	UNTIL(peer.up == NULL);
	duo_start_b(&d);
	UNTIL(peer.up != NULL);
	CHECK_EQ(session_hello(peer.up)->held_run, 10);
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
	UNTIL(peer.acked.flushed == 50);
	begin_anew(&new);
	peer.needs = 0;
	send_path(1, CHANGE_FILE);
	UNTIL(peer.needs == 1);
	begin_anew(&new);
	CHECK_EQ(session_hello(peer.up)->held_run, 1000);
	CHECK_EQ(session_hello(peer.up)->held_received, 1);
	CHECK_EQ(session_hello(peer.up)->held_applied, 0);
	end();
}

/* ---- a standby that means ill, and an active side ---- */

static void
begin_as_standby(enum sync_level level, uint64_t with)
{
	log_set_hook(duo_log);
	duo_open(&d);
	peer.as_active = false;
	peer.features = with;
	side_open(&peer, &d);
	d.level = level;
	duo_start_a(&d);
	UNTIL(peer.starts > 0);
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
		UNTIL(peer.up != NULL && peer.starts > 0 &&
			(i > 0 || peer.last_batch >= 2));
		if (cases[i].ack.received > 0)
			session_send(peer.up, WIRE_ACK, &cases[i].ack);
		else
			session_send(peer.up, WIRE_CONFIRM, &cases[i].confirm);
		UNTIL(peer.up == NULL);
		peer.starts = 0;
		if (strstr(peer.ended, cases[i].answer) == NULL)
			t_fail(__FILE__, __LINE__, "case %zu: %s", i, peer.ended);
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
	UNTIL(peer.last_batch > 1);
	side_turn(&peer, 200);
	uint64_t before = peer.last_batch;
	struct wire_confirm c = { before, before, before };
	session_send(peer.up, WIRE_CONFIRM, &c);
	side_turn(&peer, 300);
	CHECK_EQ(told, 0);
	session_send(peer.up, WIRE_RECORDS, &m);
	UNTIL(peer.last_batch > before);
	session_send(peer.up, WIRE_DIFF, &through);
	side_turn(&peer, 300);
	CHECK_EQ(told, 0);
	c = (struct wire_confirm){ peer.last_batch, peer.last_batch, peer.last_batch };
	session_send(peer.up, WIRE_CONFIRM, &c);
	UNTIL(told == 1);
	end();
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
