/*
 * session_out.c - messages to bytes.
 *
 * Frames are queued plain in `raw`; at the end of a turn they are deflated as one burst into
 * `out`, and `out` is written. Nothing is deflated while `out` has bytes, so behind a slow line
 * what is queued collects into larger bursts.
 */
#include "sync/session_priv.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"

#include <poll.h>

enum {
	WRITE_STEP = 16 << 10, /* one TLS record */
	DEFLATE_STEP = 256 << 10,
	WRITE_PER_TURN = 2 << 20,
	FAST_FROM = 64 << 10, /* a burst of so much is bulk: less effort in deflate */
	STORE_FROM =
		512 << 10, /* so much is a queue that a fast line drains undeflated */
	LINE_FAST = 16 << 20, /* bytes a second */
	LINE_WINDOW_MS = 200,
	LINE_IDLE = 4, /* waited for in less than this part of a window: it has room */
	LINE_AGAIN_MS = 10000,
	RATE_PARTS = 10, /* of a second: over one of them a rate is averaged */
	RATE_QUEUE = 4 /* of a second: so much of bulk is queued */
};

size_t
session_queued(const struct session *s)
{
	return s->raw.len - s->raw_off + s->out.len - s->out_off;
}

size_t
session_out_high(const struct session *s)
{
	uint64_t most = s->conf.rate / RATE_QUEUE;

	return most != 0 && most < SESSION_HIGH ? (size_t)most : SESSION_HIGH;
}

bool
session_full(const struct session *s)
{
	return s->raw.len - s->raw_off >= session_out_high(s);
}

/* What must be true here for the peer to be allowed to get it: its FED is our FEEDS. */
static bool
may_send(const struct session *s, const struct wire_kind *k)
{
	unsigned theirs = s->where & ~(unsigned)WIRE_LIVE;

	if ((s->where & WIRE_FED) != 0)
		theirs |= WIRE_FEEDS;
	if ((s->where & WIRE_FEEDS) != 0)
		theirs |= WIRE_FED;
	return (k->when & theirs) != 0;
}

static int
queue(struct session *s, unsigned type, const void *msg)
{
	size_t before = s->raw.len;
	int rc = wire_encode(type, s->version, msg, &s->raw);

	if (rc == 0) {
		s->stats.sent[type].messages++;
		s->stats.sent[type].bytes += s->raw.len - before;
		s->stats.raw_sent += s->raw.len - before;
		loop_hook_again(s->conf.loop);
	} else if (buf_ok(&s->raw) != 0) {
		session_lose(s, ERR_NOMEM, "out of memory for what is to be sent");
	}
	return rc;
}

int
session_send(struct session *s, unsigned type, const void *msg)
{
	const struct wire_kind *k = wire_kind(type);
	int rc;

	if (s->state != ST_UP || session_ending(s))
		return ERR_CLOSED;
	if (k == NULL || !may_send(s, k))
		return ERR_USAGE;
	if (k->bulk && session_full(s)) {
		s->refused = true;
		return ERR_BUSY;
	}
	if (session_queued(s) > SESSION_HARD) {
		session_end(s, WIRE_BYE_BUSY, "the peer takes nothing: queued=%zu",
			session_queued(s));
		return ERR_CLOSED;
	}
	rc = queue(s, type, msg);
	if (rc == 0 && type == WIRE_START)
		s->where |= WIRE_FEEDS;
	return rc;
}

void
session_out_beat(struct session *s)
{
	struct wire_heartbeat beat = { clock_wall_ns(), 0 };

	if (s->conf.ops->journal_last != NULL)
		beat.journal_last = s->conf.ops->journal_last(s->conf.node);
	session_send(s, WIRE_HEARTBEAT, &beat);
}

/* Under a rate: may a record leave? If not, the pace timer says when. */
static bool
may_leave(struct session *s)
{
	uint64_t rate = s->conf.rate, now = clock_us();
	int64_t most = (int64_t)(rate / RATE_PARTS);

	if (rate == 0)
		return true;
	if (s->pace.on)
		return false;
	uint64_t us = now - s->allowed_us;
	s->allowed -= (int64_t)(s->link->sent - s->allowed_sent);
	s->allowed += us > 1000000 ? most : (int64_t)(rate * us / 1000000);
	if (s->allowed > most)
		s->allowed = most;
	s->allowed_us = now;
	s->allowed_sent = s->link->sent;
	if (s->allowed >= 0)
		return true;
	loop_timer_set(s->conf.loop, &s->pace, (uint64_t)-s->allowed * 1000 / rate + 1);
	return false;
}

/* Writes what was deflated. False if some is left. */
static bool
write_out(struct session *s)
{
	while (s->out_off < s->out.len) {
		size_t left = s->out.len - s->out_off, n;
		if (!may_leave(s))
			return false;
		int rc = link_write(s->link, s->out.data + s->out_off,
			left < WRITE_STEP ? left : WRITE_STEP, &n);

		if (rc != 0) {
			session_lose(s, rc, link_reason(s->link));
			return false;
		}
		if (n == 0) {
			s->blocked = s->link->wants != 0 ? s->link->wants : POLLOUT;
			s->blocked_ms = clock_ms();
			return false;
		}
		s->out_off += n;
	}
	buf_clear(&s->out);
	s->out_off = 0;
	return true;
}

/* Deflate costs more time than a fast line takes for the bytes it saves. While much is queued
 * nothing is deflated, as long as the line then takes LINE_FAST; one that does not is slow, and
 * is tried again after a while. Only the line's own time counts: deflating more does not help
 * a peer that is slow to read, or a machine that is busy. Nor does it help a slow line that we
 * hardly ever wait for: then it is deflate that is waited for, and some is left out. */
static enum zip_effort
effort(struct session *s, size_t left)
{
	uint64_t now = clock_ms();

	if (s->conf.rate != 0) /* whoever sets one wants to spare the line */
		return left > FAST_FROM ? ZIP_FAST : ZIP_BEST;
	if (left >= STORE_FROM)
		s->bulk_ms = now;
	if (s->bulk_ms == 0 || now - s->bulk_ms > LINE_WINDOW_MS) {
		s->line_from_ms = 0;
		return left > FAST_FROM ? ZIP_FAST : ZIP_BEST;
	}
	if (s->line_slow && now >= s->line_again_ms) {
		s->line_slow = s->line_idle = false;
		s->line_from_ms = 0;
	}
	if (s->line_from_ms == 0) {
		s->line_from_ms = now;
		s->line_us = link_line_us(s->link);
		s->line_bytes = s->link->sent;
		s->waited_ms = 0;
	} else if (now - s->line_from_ms >= LINE_WINDOW_MS) {
		uint64_t us = link_line_us(s->link) - s->line_us;
		bool fast = (s->link->sent - s->line_bytes) * 1000000 >=
			    us * (uint64_t)LINE_FAST;
		s->line_idle = s->line_slow &&
			       s->waited_ms * LINE_IDLE < now - s->line_from_ms;
		if (!s->line_slow && !fast) {
			s->line_slow = true;
			s->line_again_ms = now + LINE_AGAIN_MS;
		}
		s->line_from_ms = 0;
	}
	return s->line_slow && !s->line_idle ? ZIP_FAST : ZIP_NONE;
}

void
session_book(struct session *s, unsigned account, uint64_t n, uint64_t bytes)
{
	s->stats.books[account].n += n;
	s->booked[account] += bytes;
}

/* n of left queued bytes have become that many. */
static void
share_out(struct session *s, size_t left, size_t n, size_t became)
{
	for (unsigned i = 0; i < SESSION_BOOKS; i++) {
		uint64_t part = s->booked[i] * n / left;

		s->booked[i] -= part;
		s->stats.books[i].bytes += (part * became + n / 2) / n;
	}
}

/* Deflates the next part of the queue; the last part of it ends with a flush. */
static void
deflate_next(struct session *s)
{
	size_t left = s->raw.len - s->raw_off;
	size_t n = left < DEFLATE_STEP ? left : DEFLATE_STEP;
	int rc = zip_out_add(s->zip_out, s->raw.data + s->raw_off, n, n == left,
		effort(s, left), &s->out);

	if (rc != 0) {
		session_lose(s, rc, "cannot deflate");
		return;
	}
	share_out(s, left, n, s->out.len);
	s->raw_off += n;
	if (s->raw_off == s->raw.len) {
		buf_clear(&s->raw);
		s->raw_off = 0;
		session_shrink(&s->raw);
		s->stats.bursts_sent++;
	} else if (s->raw_off > SESSION_HIGH) {
		buf_drop(&s->raw, s->raw_off);
		s->raw_off = 0;
	}
	s->stats.zip_sent += s->out.len;
	s->sent_ms = clock_ms();
}

void
session_out_flush(struct session *s)
{
	size_t written = 0;

	while (s->state < ST_LINGER && s->blocked == 0) {
		if (!write_out(s))
			break;
		if (s->raw_off == s->raw.len)
			break;
		if (written > WRITE_PER_TURN) {
			loop_hook_again(s->conf.loop);
			break;
		}
		deflate_next(s);
		written += s->out.len;
	}
}
