/*
 * session.c - one connection, as a machine of states and events.
 *
 *   state    what holds                                leaves by
 *   PROVE    TCP and TLS are being set up              PROVEN, END, LOST
 *   GREET    our HELLO is out, theirs has not come     ACCEPTED, END, LOST
 *   UP       messages flow                             END, LOST
 *   CLOSING  our BYE is queued, nothing is read        FLUSHED, LOST
 *   LINGER   our side is shut; bytes are thrown away   LOST
 *   OVER     freed at the end of this turn
 *
 * END is ours (a BYE goes out), LOST is the line's or the peer's (nothing more can be said).
 * LINGER exists because closing a socket with unread bytes resets the connection, and a reset may
 * overtake the BYE that says why.
 *
 * Nothing frees a session but `finish`, called from the turn's hook (or session_kill), so a
 * pointer to it stays good through all callbacks of a turn.
 */
#include "sync/session_priv.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	READ_STEP = 16 << 10, /* one TLS record */
	READS_PER_TURN = 64,
	CLOSE_MS = 2000 /* for BYE to leave, and for the peer's end to come */
};

#define SESSION_TEXT(name, text) text,
static const char *const state_names[] = { STATE_TABLE(SESSION_TEXT) };
static const char *const event_names[] = { EVENT_TABLE(SESSION_TEXT) };

static void step(struct session *s, enum session_event ev);

/* --- ending -------------------------------------------------------------------------- */

static int
bye_to_code(unsigned bye)
{
	switch (bye) {
	case WIRE_BYE_STOP:
	case WIRE_BYE_DUPLICATE:
		return ERR_CLOSED;
	case WIRE_BYE_TIMEOUT:
		return ERR_TIMEOUT;
	case WIRE_BYE_VERSION:
		return ERR_VERSION;
	case WIRE_BYE_PROTO:
		return ERR_PROTO;
	case WIRE_BYE_BUSY:
		return ERR_LIMIT;
	default:
		return ERR_PEER;
	}
}

const char *
session_state(const struct session *s)
{
	return state_names[s->state];
}

/*
 * Said once, where the end is noticed. What is expected is no warning; a dial that reached nobody
 * is the hub's to tell; a caller that leaves before saying who it is, is anybody.
 */
static void
say_end(const struct session *s)
{
	bool unproven = s->code == ERR_LINK && s->state == ST_PROVE;
	bool known = s->conf.said != NULL && strcmp(s->conf.said, s->reason) == 0;
	void (*say)(const char *fmt, ...) = log_warn;

	if (known || (unproven && s->dialled))
		say = log_debug;
	else if (s->code == ERR_CLOSED || unproven)
		say = log_info;
	say("session: ended: peer=%s where=%s state=%s reason=\"%s\"", s->peer,
		s->link->where, session_state(s), s->reason);
	if (s->conf.said != NULL && !(unproven && s->dialled))
		snprintf(s->conf.said, SESSION_SAID, "%s", s->reason);
}

/* The peer or the line ended it. */
void
session_lose(struct session *s, int code, const char *text)
{
	if (!session_ending(s)) {
		s->code = code;
		snprintf(s->reason, sizeof(s->reason), "%s", text);
		say_end(s);
	}
	step(s, EV_LOST);
}

static void
end_with(struct session *s, int code, enum wire_bye_code bye, const char *text)
{
	struct wire_bye msg = { (uint8_t)bye, s->reason };

	if (session_ending(s))
		return;
	s->code = code;
	snprintf(s->reason, sizeof(s->reason), "%s", text);
	say_end(s);
	if (s->state == ST_PROVE || wire_encode(WIRE_BYE, s->version, &msg, &s->raw)) {
		step(s, EV_LOST);
		return;
	}
	step(s, EV_END);
}

void
session_end(struct session *s, enum wire_bye_code code, const char *fmt, ...)
{
	char text[sizeof(s->reason)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	end_with(s, bye_to_code(code), code, text);
}

int
session_reject(
	struct session *s, int code, enum wire_bye_code bye, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->reject, sizeof(s->reject), fmt, ap);
	va_end(ap);
	s->reject_bye = bye;
	return code;
}

/* A callback said no. */
void
session_end_rejected(struct session *s, int code)
{
	bool why = s->reject[0] != '\0';
	enum err_consequence todo = err_consequence(code);

	end_with(s, code,
		why                        ? s->reject_bye
		: todo == ERR_DO_DROP_LINK ? WIRE_BYE_PROTO
					   : WIRE_BYE_INTERNAL,
		why ? s->reject : err_text(code));
	s->reject[0] = '\0';
}

/* The node hears of the end of what it was told is up, once. */
static void
tell_down(struct session *s)
{
	if (!s->was_up || s->told_down)
		return;
	s->told_down = true;
	s->conf.ops->down(s->conf.node, s, s->code, s->reason);
	if (s->conf.lost != NULL)
		s->conf.lost(s->conf.owner, s);
}

static void
finish(struct session *s)
{
	tell_down(s);
	loop_fd_del(s->conf.loop, &s->fd);
	loop_hook_del(s->conf.loop, &s->hook);
	loop_timer_clear(s->conf.loop, &s->timer);
	loop_timer_clear(s->conf.loop, &s->pace);
	if (s->conf.ended != NULL)
		s->conf.ended(s->conf.owner, s, s->code);
	link_close(s->link);
	zip_out_close(s->zip_out);
	zip_in_close(s->zip_in);
	buf_fini(&s->raw);
	buf_fini(&s->out);
	buf_fini(&s->in);
	buf_fini(&s->hello_frame);
	rec_mem_fini(&s->hello_mem);
	free(s);
}

void
session_end_now(struct session *s, enum wire_bye_code code, const char *text)
{
	session_end(s, code, "%s", text);
	tell_down(s);
}

void
session_kill(struct session *s, int code, const char *text)
{
	session_lose(s, code, text);
	finish(s);
}

void
session_shrink(struct buf *b)
{
	if (b->len == 0 && b->cap > SESSION_HIGH)
		buf_fini(b);
}

/* --- HELLO --------------------------------------------------------------------------- */

static void
send_hello(struct session *s)
{
	struct wire_hello h = { 0 };
	size_t before = s->out.len;
	int rc;

	s->conf.ops->hello(s->conf.node, s, &h);
	h.proto_min = s->conf.proto_min;
	h.proto_max = s->conf.proto_max;
	h.features |= WIRE_FEATURES & ~s->conf.without;
	h.name = s->conf.name;
	h.boot = s->conf.boot;
	h.clock = clock_wall_ns();
	rc = wire_encode(WIRE_HELLO, s->conf.proto_max, &h, &s->out);
	if (rc != 0) {
		session_lose(s, rc, "our own HELLO does not fit");
		return;
	}
	s->stats.sent[WIRE_HELLO].messages++;
	s->stats.sent[WIRE_HELLO].bytes += s->out.len - before;
	s->stats.raw_sent += s->out.len - before;
	s->sent_ms = clock_ms();
}

/* The two versions stand first in every HELLO that will ever be, and say how to read the rest. */
static bool
agree_version(struct session *s, const uint8_t *p, size_t n)
{
	struct rd r = rd_over(p, n);
	uint64_t lo = rd_varint(&r), hi = rd_varint(&r);

	if (!rd_ok(&r) || lo > hi || lo == 0) {
		session_end(s, WIRE_BYE_PROTO, "HELLO does not parse");
		return false;
	}
	if (lo > s->conf.proto_max || hi < s->conf.proto_min) {
		session_end(s, WIRE_BYE_VERSION,
			"no common version: peer=%" PRIu64 "..%" PRIu64 " own=%u..%u",
			lo, hi, s->conf.proto_min, s->conf.proto_max);
		return false;
	}
	s->version = hi < s->conf.proto_max ? (unsigned)hi : s->conf.proto_max;
	return true;
}

static void
judge_hello(struct session *s)
{
	const struct wire_hello *h = &s->theirs.hello;
	int rc;

	if (strcmp(h->name, s->peer) != 0) {
		session_end(s, WIRE_BYE_NAME,
			"the peer with this certificate is %s here", s->peer);
		return;
	}
	s->features = h->features & WIRE_FEATURES & ~s->conf.without;
	rc = s->conf.ops->judge != NULL ? s->conf.ops->judge(s->conf.node, s, h) : 0;
	if (rc == 0 && !session_ending(s) && s->conf.elect != NULL)
		rc = s->conf.elect(s->conf.owner, s, h);
	if (rc != 0)
		session_end_rejected(s, rc);
	else if (!session_ending(s))
		step(s, EV_ACCEPTED);
}

/* `in` is plain until HELLO is whole; what is behind it is deflated already. */
static void
greet(struct session *s)
{
	struct wire_frame f;
	int rc;

	if (!session_in_front(s, s->in.data, s->in.len, &f))
		return;
	if (f.type != WIRE_HELLO) {
		session_end(s, WIRE_BYE_PROTO, "no HELLO first");
		return;
	}
	s->hello_frame = s->in;
	s->in = (struct buf)BUF_INIT;
	const uint8_t *fields = s->hello_frame.data + f.head;
	if (!agree_version(s, fields, f.body))
		return;
	rc = wire_decode(
		WIRE_HELLO, s->version, fields, f.body, &s->hello_mem, &s->theirs);
	if (rc != 0) {
		session_end(
			s, WIRE_BYE_PROTO, "HELLO does not parse: bytes=%zu", f.body);
		return;
	}
	s->stats.got[WIRE_HELLO].messages++;
	s->stats.got[WIRE_HELLO].bytes += f.head + f.body;
	s->stats.raw_got += f.head + f.body;
	s->where = WIRE_HELD;
	judge_hello(s);
	if (!session_ending(s))
		session_in_feed(
			s, fields + f.body, s->hello_frame.len - f.head - f.body);
}

/* --- states and events --------------------------------------------------------------- */

/* TLS is up: who is it? */
static void
on_proven(struct session *s)
{
	const char *name = NULL;
	int rc, who = s->conf.who(s->conf.owner, s->link->print, &name);

	if (who < 0) {
		session_lose(s, ERR_CERT, "a certificate that no peer has");
		return;
	}
	s->peer_index = who;
	snprintf(s->peer, sizeof(s->peer), "%s", name);
	rc = zip_out_open(&s->zip_out);
	if (rc == 0)
		rc = zip_in_open(&s->zip_in);
	if (rc != 0) {
		session_lose(s, rc, err_text(rc));
		return;
	}
	s->where = WIRE_GREET;
	send_hello(s);
}

static void
on_accepted(struct session *s)
{
	s->was_up = true;
	s->got_ms = s->sent_ms = clock_ms();
	loop_timer_set(s->conf.loop, &s->timer, SESSION_BEAT_MS);
	log_info("session: up: peer=%s where=%s dialled=%d version=%u", s->peer,
		s->link->where, s->dialled, s->version);
	s->conf.ops->up(s->conf.node, s);
}

static void
step(struct session *s, enum session_event ev)
{
	enum session_state before = s->state;

	switch (ev) {
	case EV_PROVEN:
		if (before == ST_PROVE)
			s->state = ST_GREET;
		break;
	case EV_ACCEPTED:
		if (before == ST_GREET)
			s->state = ST_UP;
		break;
	case EV_END:
		if (before == ST_GREET || before == ST_UP)
			s->state = ST_CLOSING;
		break;
	case EV_FLUSHED:
		if (before == ST_CLOSING)
			s->state = ST_LINGER;
		break;
	case EV_LOST:
		s->state = ST_OVER;
		break;
	}
	if (s->state == before)
		return;
	log_debug("session: peer=%s %s -> %s on %s", s->peer, state_names[before],
		session_state(s), event_names[ev]);
	loop_hook_again(s->conf.loop);
	switch (s->state) {
	case ST_GREET:
		on_proven(s);
		break;
	case ST_UP:
		on_accepted(s);
		break;
	case ST_CLOSING:
		loop_timer_set(s->conf.loop, &s->timer, CLOSE_MS);
		break;
	case ST_LINGER:
		link_shut(s->link);
		break;
	default:
		break;
	}
}

/* Does the node take nothing for now? The peer is not silent then, it is not listened to. */
static bool
held_off(struct session *s)
{
	if (s->state != ST_UP || s->conf.ops->no_room == NULL ||
		!s->conf.ops->no_room(s->conf.node, s))
		return false;
	s->got_ms = clock_ms();
	return true;
}

/* lost: the line is gone, what it has left is not much. */
static void
read_some(struct session *s, bool lost)
{
	uint8_t bytes[READ_STEP];

	for (unsigned i = 0; i < READS_PER_TURN && s->state < ST_OVER; i++) {
		size_t n;
		if (!lost && held_off(s))
			return;
		int rc = link_read(s->link, bytes, sizeof(bytes), &n);

		if (rc != 0) {
			session_lose(s, rc, link_reason(s->link));
			return;
		}
		if (n == 0)
			return;
		s->got_ms = clock_ms();
		s->stats.zip_got += n;
		if (s->state == ST_GREET) {
			buf_put(&s->in, bytes, n);
			if (buf_ok(&s->in) != 0)
				session_lose(s, ERR_NOMEM, "out of memory for HELLO");
			else
				greet(s);
		} else if (s->state == ST_UP) {
			session_in_feed(s, bytes, n);
		}
	}
}

static void
on_ready(void *arg, short revents)
{
	struct session *s = arg;
	bool done = false;
	int rc;

	if ((revents & s->blocked) != 0) {
		s->blocked = 0;
		s->waited_ms += clock_ms() - s->blocked_ms;
	}
	if (s->state == ST_PROVE) {
		rc = link_greet(s->link, &done);
		if (rc != 0)
			session_lose(s, rc, link_reason(s->link));
		else if (done)
			step(s, EV_PROVEN);
		if (!done)
			return;
	}
	if (s->state != ST_CLOSING && (revents & ~POLLOUT) != 0)
		read_some(s, (revents & (POLLERR | POLLHUP)) != 0);
	else if (s->state == ST_CLOSING && (revents & (POLLERR | POLLNVAL)) != 0)
		session_lose(s, ERR_LINK, "lost while closing");
}

/* on_turn goes on with what is queued. */
static void
on_pace(void *arg)
{
	(void)arg;
}

static void
on_timer(void *arg)
{
	struct session *s = arg;
	uint64_t now = clock_ms();

	if (s->state == ST_PROVE || s->state == ST_GREET) {
		session_end(s, WIRE_BYE_TIMEOUT, "no greeting within %d ms",
			SESSION_GREET_MS);
		return;
	}
	if (s->state != ST_UP) {
		step(s, EV_LOST);
		return;
	}
	if (!held_off(s) && now - s->got_ms >= SESSION_DEAD_MS) {
		session_end(s, WIRE_BYE_TIMEOUT, "nothing heard for %" PRIu64 " ms",
			now - s->got_ms);
		return;
	}
	/* Bytes that wait for the line are as good as a beat; more of them would not help. */
	if (now - s->sent_ms >= SESSION_BEAT_MS && session_queued(s) == 0)
		session_out_beat(s);
	uint64_t beat = s->sent_ms + SESSION_BEAT_MS,
		 dead = s->got_ms + SESSION_DEAD_MS;
	uint64_t due = beat < dead ? beat : dead;
	loop_timer_set(
		s->conf.loop, &s->timer, due > now ? due - now : SESSION_BEAT_MS);
}

/* The end of a turn: what was queued goes, and what is over is freed. */
static void
on_turn(void *arg)
{
	struct session *s = arg;

	if (s->state == ST_GREET || s->state == ST_UP || s->state == ST_CLOSING)
		session_out_flush(s);
	if (session_ending(s))
		tell_down(s);
	if (s->state == ST_CLOSING && session_queued(s) == 0)
		step(s, EV_FLUSHED);
	if (s->state == ST_OVER) {
		finish(s);
		return;
	}
	if (s->refused && s->raw.len - s->raw_off < session_out_high(s) / 4 &&
		s->state == ST_UP) {
		s->refused = false;
		s->conf.ops->drained(s->conf.node, s);
	}
	s->fd.events = s->state == ST_CLOSING || held_off(s) ? 0 : POLLIN;
	if (s->state == ST_PROVE)
		s->fd.events = s->link->wants;
	else
		s->fd.events |= s->blocked;
}

int
session_open(const struct session_conf *conf, struct link *link, bool dialled,
	struct session **out)
{
	struct session *s = calloc(1, sizeof(*s));

	*out = NULL;
	if (s == NULL) {
		link_close(link);
		return ERR_NOMEM;
	}
	s->conf = *conf;
	if (s->conf.proto_min == 0)
		s->conf.proto_min = WIRE_PROTO_MIN;
	if (s->conf.proto_max == 0)
		s->conf.proto_max = WIRE_PROTO_MAX;
	s->version = s->conf.proto_max;
	s->link = link;
	s->link->wants = POLLIN | POLLOUT;
	s->dialled = dialled;
	s->peer_index = -1;
	snprintf(s->peer, sizeof(s->peer), "?");
	s->fd = (struct loop_fd){
		.fd = link->fd, .events = POLLIN | POLLOUT, .fn = on_ready, .arg = s
	};
	s->hook = (struct loop_hook){ .fn = on_turn, .arg = s };
	s->timer = (struct loop_timer){ .fn = on_timer, .arg = s };
	s->pace = (struct loop_timer){ .fn = on_pace, .arg = s };
	loop_fd_add(conf->loop, &s->fd);
	loop_hook_add(conf->loop, &s->hook);
	loop_timer_set(conf->loop, &s->timer, SESSION_GREET_MS);
	*out = s;
	return 0;
}

/* --- questions ----------------------------------------------------------------------- */

const char *
session_peer(const struct session *s)
{
	return s->peer;
}

unsigned
session_peer_index(const struct session *s)
{
	return (unsigned)s->peer_index;
}

bool
session_dialled(const struct session *s)
{
	return s->dialled;
}

unsigned
session_version(const struct session *s)
{
	return s->was_up ? s->version : 0;
}

uint64_t
session_features(const struct session *s)
{
	return s->features;
}

const struct wire_hello *
session_hello(const struct session *s)
{
	return s->theirs.hello.name != NULL ? &s->theirs.hello : NULL;
}

const char *
session_reason(const struct session *s)
{
	return s->reason;
}

void
session_stats(const struct session *s, struct session_stats *out)
{
	*out = s->stats;
	out->wire_sent = s->link->sent;
	out->wire_got = s->link->got;
}

void
session_stats_add(struct session_stats *sum, const struct session_stats *more)
{
	for (unsigned i = 0; i < WIRE_TYPES; i++) {
		sum->sent[i].messages += more->sent[i].messages;
		sum->sent[i].bytes += more->sent[i].bytes;
		sum->got[i].messages += more->got[i].messages;
		sum->got[i].bytes += more->got[i].bytes;
	}
	sum->raw_sent += more->raw_sent;
	sum->raw_got += more->raw_got;
	sum->zip_sent += more->zip_sent;
	sum->zip_got += more->zip_got;
	sum->wire_sent += more->wire_sent;
	sum->wire_got += more->wire_got;
	sum->bursts_sent += more->bursts_sent;
	for (unsigned i = 0; i < SESSION_BOOKS; i++) {
		sum->books[i].n += more->books[i].n;
		sum->books[i].bytes += more->books[i].bytes;
	}
}
