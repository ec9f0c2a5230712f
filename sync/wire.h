/*
 * wire.h - every message of the link in one table: number, fields, limit, when it may come.
 *
 * A frame is a varint length, then that many bytes: one byte of type, the fields packed as rec.h
 * says. The first frame of each side is HELLO, as it is; all that follows goes through zip.h.
 *
 * Owns     nothing; strings, blobs and lists of a decoded message live as long as its frame and
 *          its rec_mem.
 * Threads  any.
 * Errors   decoding: ERR_PROTO for a frame that is no message, or over its limit; ERR_VERSION for
 *          a type this version does not have; ERR_NOMEM. Encoding: ERR_LIMIT, ERR_NOMEM.
 */
#ifndef SYNC_WIRE_H
#define SYNC_WIRE_H

#include "meta/base/rec.h"

/* Versions of the protocol that this program speaks. */
#define WIRE_PROTO_MIN 1
#define WIRE_PROTO_MAX 1
/* Feature bits of HELLO; both sides must have one for it to be used. */
#define WIRE_FEATURE_LEVELS 1u /* WANT and CONFIRM are understood */
#define WIRE_FEATURE_ASIDES 4u /* QUARANTINE comes in lists as well */
#define WIRE_FEATURE_WITHHELD 8u /* QUARANTINE also says whether anything is withheld */
#define WIRE_FEATURES \
	(WIRE_FEATURE_LEVELS | WIRE_FEATURE_ASIDES | WIRE_FEATURE_WITHHELD)
/* No feature, a request that this sender alone has: it lost its states, and is to be compared. */
#define WIRE_FEATURE_LOST 2u

enum {
	WIRE_NAME_MAX = 64,
	WIRE_TEXT_MAX = 1000,
	WIRE_DIR_MAX = 8192, /* a directory below the spool */
	WIRE_ID_MAX = 64, /* a mailbox's unique id */
	WIRE_BODY_MAX = 64 << 10, /* data of one BODY */
	WIRE_BATCH_MAX = 64 << 20,
	WIRE_SUMS_MAX = 1000, /* items in one SUMS or DIFF */
	WIRE_RECORDS_MAX = 20000, /* items in one RECORDS */
	WIRE_LINE_MAX = 8192,
	WIRE_GUID_LEN = 20,
	WIRE_SUM_LEN = 16
};

/* When a message may come: what must be true of the session. */
enum wire_when {
	WIRE_GREET = 1, /* TLS is up, HELLO has not come */
	WIRE_HELD = 2, /* HELLO has come */
	WIRE_FED = 4, /* the peer has sent START: its journal comes here */
	WIRE_FEEDS = 8, /* we have sent START: our journal goes there */
	WIRE_LIVE = WIRE_FED | WIRE_FEEDS
};

enum wire_mode { WIRE_MODE_STREAM, WIRE_MODE_COMPARE, WIRE_MODES };

/* Why a side says BYE. */
#define WIRE_BYE_TABLE(X) \
	X(WIRE_BYE_STOP, "stopping") \
	X(WIRE_BYE_PROTO, "protocol broken") \
	X(WIRE_BYE_VERSION, "no common version") \
	X(WIRE_BYE_DUPLICATE, "another connection is kept") \
	X(WIRE_BYE_NAME, "wrong name") \
	X(WIRE_BYE_ROLE, "roles do not fit") \
	X(WIRE_BYE_EPOCH, "epochs do not fit") \
	X(WIRE_BYE_TIMEOUT, "nothing heard") \
	X(WIRE_BYE_BUSY, "too much queued") \
	X(WIRE_BYE_INTERNAL, "trouble here")
#define WIRE_BYE_ENUM(name, text) name,
enum wire_bye_code { WIRE_BYE_TABLE(WIRE_BYE_ENUM) WIRE_BYE_CODES };
#undef WIRE_BYE_ENUM

struct wire_hello {
	uint32_t proto_min, proto_max;
	uint64_t features;
	const char *name; /* the sender's */
	uint64_t boot; /* random, new at every start of the process */
	uint8_t role; /* enum sync_role's number, not judged here */
	uint64_t epoch, run;
	const char *spool_id;
	uint64_t journal_first,
		journal_last; /* seqs in the sender's journal; 0, 0: empty */
	/* What the sender holds of the receiver's journal. */
	uint64_t held_epoch, held_run, held_received, held_flushed, held_applied;
	uint64_t clock; /* wall nanoseconds */
	struct rec_blob
		line; /* epoch_encode of the sender's line; empty: it has none */
};

/* "My journal comes now": from seq on (stream), or after the mailboxes are compared. */
struct wire_start {
	uint64_t epoch, run, from_seq;
	uint8_t mode; /* enum wire_mode */
};

struct wire_batch {
	uint64_t seq;
	struct rec_blob bytes; /* meta/batch.h */
};

/* A part of a message. Parts of one body come in order, without gaps. */
struct wire_body {
	uint8_t guid[WIRE_GUID_LEN];
	uint64_t total, offset;
	struct rec_blob data;
};

struct wire_gone {
	uint8_t guid[WIRE_GUID_LEN];
};

struct wire_need {
	uint8_t guid[WIRE_GUID_LEN];
	uint64_t size;
	const char *dir; /* where the asker expects it */
	uint32_t uid;
};

/* The highest seq up to which everything is received, flushed, applied. */
struct wire_ack {
	uint64_t received, flushed, applied;
};

/* The side that feeds waits for these levels: bits 1 << enum sync_level. They are to be confirmed
 * as soon as they are reached. */
struct wire_want {
	uint8_t levels;
};

/* The highest seq up to which everything is in memory; on disk, bodies included; on disk and
 * visible. 0 for a level that is not wanted. */
struct wire_confirm {
	uint64_t received, flushed, applied;
};

struct wire_heartbeat {
	uint64_t clock; /* wall nanoseconds */
	uint64_t journal_last;
};

struct wire_sum {
	const char *dir;
	const char *uniqueid;
	uint8_t sum[WIRE_SUM_LEN];
};

struct wire_sums {
	struct rec_list list; /* struct wire_sum */
	bool last;
};

struct wire_dir {
	const char *dir;
};

struct wire_diff {
	struct rec_list list; /* struct wire_dir: from the active side, those for which
				 nothing is to be done */
	bool last;
};

/* Asks for RECORDS of one mailbox. */
struct wire_list {
	const char *dir;
};

struct wire_record {
	uint32_t uid;
	uint8_t hash[8];
	uint32_t guid; /* its first bytes */
	uint64_t modseq;
	uint8_t gone; /* 1 expunged, 2 unlinked */
};

struct wire_records {
	const char *dir;
	const char *uniqueid;
	bool present; /* false: there is no such mailbox here */
	uint64_t highestmodseq; /* of the mailbox there */
	struct rec_list list; /* struct wire_record, by rising uid */
	bool last;
};

/* This mailbox was set aside at the sender. Without a folder: a list follows, of uid mailboxes; from
 * the active side: uid is 1 while rows of mailboxes are withheld, 0 when they are not any more. */
struct wire_quarantine {
	const char *dir;
	uint32_t uid; /* 0: the mailbox as a whole */
	const char *check;
	const char *text;
};

/* "Is the sum of all your mailboxes as of my seq equal to mine?" */
struct wire_verify {
	uint64_t seq;
	uint8_t sum[WIRE_SUM_LEN];
};

struct wire_verified {
	uint64_t seq;
	bool ok;
	const char *text; /* what is missing or differs, if not ok */
};

struct wire_bye {
	uint8_t code; /* enum wire_bye_code, or one of a later version */
	const char *text;
};

/*
 * The table. Columns: NAME, number, stem of struct and field table, most bytes in a frame, when
 * it may come, bulk (refused by session_send over the high-water mark), lowest version.
 */
#define WIRE_TABLE(X) \
	X(HELLO, 1, hello, 16 << 10, WIRE_GREET, false, 1) \
	X(BYE, 2, bye, 2 << 10, WIRE_GREET | WIRE_HELD, false, 1) \
	X(HEARTBEAT, 3, heartbeat, 64, WIRE_HELD, false, 1) \
	X(START, 4, start, 64, WIRE_HELD, false, 1) \
	X(BATCH, 5, batch, WIRE_BATCH_MAX + 64, WIRE_FED, true, 1) \
	X(BODY, 6, body, WIRE_BODY_MAX + 64, WIRE_LIVE, true, 1) \
	X(GONE, 7, gone, 64, WIRE_LIVE, false, 1) \
	X(NEED, 8, need, 16 << 10, WIRE_LIVE, false, 1) \
	X(ACK, 9, ack, 64, WIRE_FEEDS, false, 1) \
	X(SUMS, 10, sums, 1 << 20, WIRE_LIVE, false, 1) \
	X(DIFF, 11, diff, 1 << 20, WIRE_LIVE, false, 1) \
	X(LIST, 12, list, 16 << 10, WIRE_LIVE, false, 1) \
	X(RECORDS, 13, records, 1 << 20, WIRE_LIVE, false, 1) \
	X(QUARANTINE, 14, quarantine, 16 << 10, WIRE_LIVE, false, 1) \
	X(VERIFY, 15, verify, 64, WIRE_LIVE, false, 1) \
	X(VERIFIED, 16, verified, 2 << 10, WIRE_LIVE, false, 1) \
	X(WANT, 17, want, 64, WIRE_FED, false, 1) \
	X(CONFIRM, 18, confirm, 64, WIRE_FEEDS, false, 1)

#define WIRE_ENUM(name, num, stem, max, when, bulk, since) WIRE_##name = (num),
enum wire_type { WIRE_TABLE(WIRE_ENUM) WIRE_TYPES };
#undef WIRE_ENUM

#define WIRE_MEMBER(name, num, stem, max, when, bulk, since) struct wire_##stem stem;
union wire_any {
	WIRE_TABLE(WIRE_MEMBER)
};
#undef WIRE_MEMBER

struct wire_kind {
	const char *name;
	const struct rec_field *fields;
	size_t max; /* bytes of a frame behind its length */
	unsigned when; /* any of these enum wire_when bits will do */
	bool bulk;
	unsigned since;
};

/* The row of a type, NULL if there is none. */
const struct wire_kind *wire_kind(unsigned type);
/* The feature bit that both must have for it to be sent; 0: none. */
uint64_t wire_feature(unsigned type);
/* The text of a BYE code, also for codes not known here. */
const char *wire_bye_text(unsigned code);

/* Appends one frame in the given version. After a failure out is as it was. */
int wire_encode(unsigned type, unsigned version, const void *msg, struct buf *out);

/* What a frame's first bytes say. 0 with *frame_out = length and type, or 0 with type 0 if more
 * bytes are needed, or ERR_PROTO / ERR_VERSION. The length is within the type's limit. */
struct wire_frame {
	unsigned type;
	size_t head; /* bytes of length and type */
	size_t body; /* bytes of fields behind them */
};
int wire_peek(const void *p, size_t n, unsigned version, struct wire_frame *frame_out);

/* Decodes the fields of a whole frame. HELLO and BYE may have more behind them, from a later
 * version; in all others a byte left over is an error. */
int wire_decode(unsigned type, unsigned version, const void *p, size_t n,
	struct rec_mem *mem, union wire_any *msg_out);

#endif
