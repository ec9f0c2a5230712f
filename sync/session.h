/*
 * session.h - one connection to one peer: handshake, frames, heartbeat, end.
 *
 * A session is made by hub.c over a link (dialled or accepted) and lives until it is down. It
 * proves the peer (TLS pin, then the name in HELLO), agrees on a version, and from then on hands
 * each message that is allowed in this state to its handler.
 *
 * Owns     its link, both zlib streams, the queue of what is to be sent. The struct session given
 *          to callbacks is valid until `down` returns.
 * Threads  the loop's thread only.
 * Errors   an error of the connection never reaches the caller of session_send as anything but
 *          ERR_CLOSED: the session ends by itself, logs why, and calls down.
 * Bounds   one frame as wire.h says; SESSION_HIGH bytes queued for bulk messages, SESSION_HARD
 *          for all, then the link is dropped; inflated bytes are held only as the frame that is
 *          being put together.
 */
#ifndef SYNC_SESSION_H
#define SYNC_SESSION_H

#include "sync/wire.h"

struct link;
struct loop;
struct session;

enum {
	SESSION_HIGH =
		2 << 20, /* bytes queued, not yet deflated: bulk is refused from here;
			  * drained is called below a quarter of it */
	SESSION_HARD = 80 << 20, /* more than SESSION_HIGH and the largest frame */
	SESSION_BEAT_MS = 1000, /* a HEARTBEAT when nothing was sent for so long */
	SESSION_DEAD_MS = 10000, /* dropped when nothing was heard for so long */
	SESSION_SAID = 256,
	SESSION_GREET_MS = 10000 /* TLS and HELLO must be done by then */
};

/* 0, or a negative code that drops the link; the text of the reason comes from session_reject
 * if the handler has called it. msg is the struct of the type, valid during the call. */
typedef int session_handler(void *node, struct session *s, const void *msg);

struct session_ops {
	/* Fill in our HELLO for this peer: role, epoch .. history. What the session knows itself
	 * (versions, features, name, boot, clock) is set already. Pointers must stay good until the
	 * callback has returned to the loop. */
	void (*hello)(void *node, struct session *s, struct wire_hello *hello);
	/* Judge the peer's HELLO. 0, or a code to refuse (session_reject gives the reason). */
	int (*judge)(void *node, struct session *s, const struct wire_hello *hello);
	/* HELLO has come and was accepted: messages may be sent. */
	void (*up)(void *node, struct session *s);
	/* After up only, once. code is why; the session is freed when this returns. */
	void (*down)(void *node, struct session *s, int code, const char *text);
	/* A bulk message was refused before; now there is room. */
	void (*drained)(void *node, struct session *s);
	/* Is there no room for more from this peer? Asked before every read; while it says so
	 * nothing is read and the line fills up, which is what slows the peer. Something that
	 * turns the loop must end it. May be NULL. */
	bool (*no_room)(void *node, struct session *s);
	/* The last seq of our journal, for HEARTBEAT. */
	uint64_t (*journal_last)(void *node);
	/* By enum wire_type; NULL for what the session does itself (HELLO, BYE, and HEARTBEAT
	 * unless wanted). A message without handler breaks the protocol. */
	session_handler *handlers[WIRE_TYPES];
};

/* Queues one message; it leaves at the end of this turn of the loop, all of a turn in one burst.
 * msg is copied. 0; ERR_BUSY: a bulk message while session_full, nothing was queued and drained
 * will be called; ERR_CLOSED: not up; ERR_LIMIT, ERR_NOMEM: nothing was queued. */
int session_send(struct session *s, unsigned type, const void *msg);
bool session_full(const struct session *s);

/* Ends the session at the end of this turn, with a BYE. Calls down (later, never from within). */
void session_end(struct session *s, enum wire_bye_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Inside judge or a handler: the reason for the failure about to be returned; returns code. */
int session_reject(struct session *s, int code, enum wire_bye_code bye, const char *fmt,
	...) __attribute__((format(printf, 4, 5)));

/* The name of the peer in our configuration, and its place in the list of peers. */
const char *session_peer(const struct session *s);
unsigned session_peer_index(const struct session *s);
bool session_dialled(const struct session *s); /* by us */
unsigned session_version(const struct session *s); /* agreed; 0 before up */
uint64_t session_features(const struct session *s);
/* The peer's HELLO; lives as long as the session, NULL before it came. */
const struct wire_hello *session_hello(const struct session *s);
/* Bytes queued or on their way into the socket. */
size_t session_queued(const struct session *s);

/* What was counted, for metrics. wire bytes are those of TCP, TLS included. */
struct session_count {
	uint64_t messages, bytes; /* bytes before deflate, length and type included */
};
/* Of what is sent its user knows more than the type: he books it on accounts of his own. */
enum { SESSION_BOOKS = 16 };
struct session_book {
	uint64_t n, bytes; /* bytes after deflate */
};
struct session_stats {
	struct session_count sent[WIRE_TYPES], got[WIRE_TYPES];
	uint64_t raw_sent, raw_got; /* all frames */
	uint64_t zip_sent, zip_got; /* after deflate */
	uint64_t wire_sent, wire_got; /* in TLS records, handshake included */
	uint64_t bursts_sent;
	struct session_book books[SESSION_BOOKS];
};
/* Books n things that took so many bytes of what was queued since the last turn. What is deflated as
 * one burst is shared among the accounts (and what nobody booked) by size before. */
void session_book(struct session *s, unsigned account, uint64_t n, uint64_t bytes);
void session_stats(const struct session *s, struct session_stats *out);
void session_stats_add(struct session_stats *sum, const struct session_stats *more);

/* Why it ended, in words; "" before. */
const char *session_reason(const struct session *s);

/*
 * For hub.c and tests. The link is the session's from here, also on failure. Whose session it is
 * is found by the fingerprint that the link has proven.
 */
struct session_conf {
	struct loop *loop;
	const char *name; /* our own */
	uint64_t boot;
	const struct session_ops *ops;
	void *node;
	/* Who has this fingerprint: place in the list and name; negative if nobody. */
	int (*who)(void *owner, const uint8_t fingerprint[32], const char **name_out);
	/* May this session become the peer's? Asked before up; a code refuses, and the owner has
	 * called session_reject. */
	int (*elect)(void *owner, struct session *s, const struct wire_hello *hello);
	/* It was elected and is no more; after the node's own down. */
	void (*lost)(void *owner, struct session *s);
	/* The last call; the session is freed when it returns. */
	void (*ended)(void *owner, struct session *s, int code);
	void *owner;
	/* The words of the last end that was logged, SESSION_SAID bytes, kept by the session: the
	 * same again is logged at level debug. NULL: always logged. */
	char *said;
	/* Bytes a second that leave here at most, all of them counted; 0: no limit. Averaged over
	 * a tenth of a second. The queue for bulk is then a quarter of a second's worth, so that
	 * what is small and new does not wait for long. */
	uint64_t rate;
	unsigned proto_min, proto_max; /* 0: WIRE_PROTO_MIN, WIRE_PROTO_MAX */
	uint64_t without; /* features not to be used, as a version that lacks them */
};
int session_open(const struct session_conf *conf, struct link *link, bool dialled,
	struct session **out);
/* As session_end, but `down` and `lost` are called before it returns; not from a callback of
 * this session. */
void session_end_now(struct session *s, enum wire_bye_code code, const char *text);
/* Ends at once, without BYE; all calls are made before it returns. Not from its callbacks. */
void session_kill(struct session *s, int code, const char *text);

#endif
