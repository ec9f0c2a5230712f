/*
 * session_priv.h - what the three files of a session share; nobody else includes it.
 *
 * session.c has the states and the ends, session_in.c and session_out.c the two directions.
 */
#ifndef SYNC_SESSION_PRIV_H
#define SYNC_SESSION_PRIV_H

#include "sync/link.h"
#include "sync/loop.h"
#include "sync/session.h"
#include "sync/zip.h"

#define STATE_TABLE(X) \
	X(ST_PROVE, "proving") \
	X(ST_GREET, "greeting") \
	X(ST_UP, "up") \
	X(ST_CLOSING, "closing") \
	X(ST_LINGER, "lingering") \
	X(ST_OVER, "over")
#define EVENT_TABLE(X) \
	X(EV_PROVEN, "proven") \
	X(EV_ACCEPTED, "accepted") \
	X(EV_END, "end") \
	X(EV_FLUSHED, "flushed") \
	X(EV_LOST, "lost")
#define SESSION_ENUM(name, text) name,
enum session_state { STATE_TABLE(SESSION_ENUM) };
enum session_event { EVENT_TABLE(SESSION_ENUM) };
#undef SESSION_ENUM

struct session {
	struct session_conf conf;
	struct link *link;
	struct loop_fd fd;
	struct loop_hook hook;
	struct loop_timer timer;

	enum session_state state;
	unsigned where; /* enum wire_when bits that hold */
	bool dialled, was_up, told_down;
	int peer_index;
	char peer[WIRE_NAME_MAX + 1];
	unsigned version;
	uint64_t features;

	struct zip_out *zip_out;
	struct zip_in *zip_in;
	struct buf raw, out, in;
	size_t raw_off, out_off;
	short blocked; /* the link took nothing: the events to wait for; 0: go on */
	/* conf.rate: what may still leave just now; negative after a record that was larger */
	int64_t allowed;
	uint64_t allowed_us; /* when it was reckoned */
	uint64_t allowed_sent; /* what had left by then */
	struct loop_timer pace; /* set: nothing leaves until then */
	bool refused; /* a bulk message was, so drained is owed */
	uint64_t sent_ms, got_ms;
	/* how fast the line is while it is kept full: see effort() in session_out.c */
	bool line_slow, line_idle;
	uint64_t line_from_ms, line_us, line_bytes, line_again_ms;
	uint64_t bulk_ms; /* when much was queued last */
	uint64_t blocked_ms; /* since when, if it is */
	uint64_t waited_ms; /* for the link, since line_from_ms */

	union wire_any theirs; /* HELLO */
	struct buf hello_frame; /* theirs points into it */
	struct rec_mem hello_mem;
	uint64_t booked[SESSION_BOOKS]; /* bytes in raw of each account */
	struct session_stats stats;

	int code; /* why it ends; 0: it does not */
	char reason[SESSION_SAID];
	enum wire_bye_code reject_bye; /* what session_reject left for its caller */
	char reject[256];
};

const char *session_state(const struct session *s);
/* It is about to end: no message is taken or given any more. */
static inline bool
session_ending(const struct session *s)
{
	return s->code != 0;
}
/* The peer or the line ended it; text is why. */
void session_lose(struct session *s, int code, const char *text);
/* A callback said no, perhaps after session_reject. */
void session_end_rejected(struct session *s, int code);
/* A buffer that held one big frame does not keep its memory. */
void session_shrink(struct buf *b);

/* Deflates and writes what is queued, as far as the line takes it. */
void session_out_flush(struct session *s);
/* The queue for bulk is full from here, and has room again from a quarter of it. */
size_t session_out_high(const struct session *s);
void session_out_beat(struct session *s);

/* Deflated bytes have come: takes every whole message of them. */
void session_in_feed(struct session *s, const uint8_t *p, size_t n);
/* Looks at the front of n bytes. True if a whole frame is there that may come now; if it never
 * will be one, the session is ended. */
bool
session_in_front(struct session *s, const uint8_t *p, size_t n, struct wire_frame *f);

#endif
