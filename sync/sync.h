/*
 * sync.h - the one header of replication that fs/ may see.
 *
 * Capture hands in what was committed; replication journals it, sends it to every peer, and on a
 * standby replays what peers send. What a lower layer must tell a higher one goes through
 * struct sync_hooks.
 *
 * Owns     the state folder, the mailboxes' states, the peer thread and the replay workers.
 * Threads  sync_commit, sync_path, sync_names*, sync_move_*, sync_note, sync_keep_body,
 *          sync_confirm, sync_refusing, sync_force*, sync_wait*, sync_prove, sync_facts,
 *          sync_linked, sync_index_moved, sync_mailbox_*, sync_each_mailbox: any. The rest: the
 *          thread that wires the program together.
 * Locks    a mailbox's lock is taken inside; callers hold none of their own that a hook takes.
 * Errors   err.h.
 */
#ifndef SYNC_SYNC_H
#define SYNC_SYNC_H

#include "meta/base/buf.h"
#include "meta/mbox.h"

#include <stdbool.h>
#include <stdint.h>

struct spool;
struct sync;

enum sync_role { SYNC_STANDBY, SYNC_ACTIVE };
enum { SYNC_PEERS_MAX = 16, SYNC_NAME_MAX = 64, SYNC_SENT_KINDS = 32 };

/* What a client's OK means (design 5): on our disk; also in each peer's memory; on its disk;
 * replayed there and to be seen. */
enum sync_level { SYNC_LOCAL, SYNC_RECEIVED, SYNC_FLUSHED, SYNC_APPLIED, SYNC_LEVELS };
/* What a commit was: a new message; changes of flags and of nothing else; the rest. */
enum sync_kind { SYNC_DELIVERY, SYNC_FLAGS, SYNC_OTHER, SYNC_KINDS };
#define SYNC_ALL_KINDS ((1u << SYNC_KINDS) - 1)

struct sync_peer_conf {
	char name[SYNC_NAME_MAX];
	char address[300]; /* host:port, v6 in brackets; "": never dialled */
	uint8_t fingerprint[32];
};

struct sync_conf {
	const char *name; /* this node in its peers' configuration */
	const char *state; /* state folder */
	const char *listen; /* host:port; NULL: this node only dials */
	enum sync_role
		role; /* for the very first start; afterwards the stored one decides */
	const char *spool_id;
	const struct sync_peer_conf *peers;
	unsigned n_peers;
	uint64_t journal_size; /* bytes kept for a peer that is away */
	uint64_t journal_age; /* ms the same are kept */
	uint64_t rate; /* bytes a second sent to each peer at most; 0: no limit */
	unsigned workers; /* replay threads; 0: two */
	unsigned
		piece; /* records that one batch of a commit names at most; 0: 100,000 */
	bool takeover; /* an earlier server of this mount died; what it left is marked */
	enum sync_level level[SYNC_KINDS];
	bool refuse; /* when no peer confirms: rather answer nothing than without them */
	uint64_t level_limit; /* ms that a wait for the peers may last */
	uint64_t without; /* features of the link not to be used, see session.h */
};

/* Upward. Called from replay workers and the peer thread; none may call back into sync.h. */
struct sync_hooks {
	void *arg;
	/* See struct mbox_env in meta/mbox.h. */
	bool (*begin_in_place)(void *arg, const char *dir, const char *name, int fd);
	void (*end_in_place)(void *arg, const char *dir, const char *name, int fd);
	/* On a standby, once in a life: what the last one left was all done again, or set aside. */
	void (*redone)(void *arg);
	/* This active side met a later epoch: nothing may begin here any more (sync_is_stale).
	 * Called again by each life that finds so; from the peer thread, so it may not wait. */
	void (*stale)(void *arg);
};

/* Opens the state folder and the certificate, reads all mailboxes' states, and settles what the
 * last process left: on an active side its own gap is derived (adopted holds at the very first
 * start: the spool is walked once), on a standby the inbox is ready to be redone. No thread runs
 * yet. Strings of conf must live as long as the sync. */
int sync_open(const struct sync_conf *conf, struct spool *spool,
	const struct sync_hooks *hooks, struct sync **out);
/* Starts the peer thread and, on a standby, the workers. */
int sync_start(struct sync *s);
/* Stops both. clean: everything was drained, so the next start need not look. Frees s. */
void sync_stop(struct sync *s, bool clean);

enum sync_role sync_role(const struct sync *s);
/* An active side that has met a later epoch, in this life or an earlier one: another side was
 * promoted since. Waits fail with ERR_ROLE; nothing is exchanged. */
bool sync_is_stale(struct sync *s);
/* The role that a state folder holds while nobody has it open. ERR_NOTFOUND: it has none yet. */
int sync_stored_role(const char *state, enum sync_role *role_out);

/* Called once what was handed in is in the journal, or was found to be nothing, or was set aside;
 * from the peer thread or before the call that handed it in returns. */
typedef void sync_done_fn(void *arg);

/* What capture knows of a commit; see struct mbox_delta. The arrays are the caller's and not
 * used after the call. */
struct sync_commit {
	const char *dir;
	const struct mbox_touched *touched;
	size_t n_touched;
	bool derive; /* touched is not known */
	bool annots; /* cyrus.annotations may have changed */
	bool names; /* cyrus.header was replaced */
	const void *old_index; /* a repack: the bytes of the index that was replaced */
	size_t old_size;
	bool patient; /* see below */
	bool locked; /* derive: a writer has the index locked, who may be waiting for us */
	/* Asked with done_arg once the files were read (NULL: never): may it be half of a
	 * transaction, because somebody wrote meanwhile or, if odd (it does not add up), is
	 * still at it? */
	bool (*disturbed)(void *arg, bool odd);
	unsigned *kinds_out; /* may be NULL: what it was, bits 1 << enum sync_kind */
	uint64_t ticket; /* of sync_names that dir was found with, or 0 */
	sync_done_fn *done;
	void *done_arg;
};

/* The mailbox in dir was committed and its index synced: makes the batch and queues it for the
 * journal, in the order of the calls per mailbox. ERR_BUSY, only with patient: its files are
 * between two steps of their writer, who may be waiting for this very call; nothing was queued,
 * done is not called, the caller hands the same in again later. ERR_NOTFOUND, only with ticket: see
 * sync_names; nothing was queued either. Else 0. */
int sync_commit(struct sync *s, const struct sync_commit *c);
/* A path that is no mailbox's file was created, changed or removed and is quiet now. names: the
 * ticket, as in struct sync_commit; 0 or ERR_NOTFOUND. */
int sync_path(struct sync *s, const char *path, uint64_t names, sync_done_fn *done,
	void *done_arg);

/* Folders are moved at any moment, and no lock is held from finding a path to handing it in. So
 * take a ticket, find the path, and hand in both: if a move came across it in between, that says
 * ERR_NOTFOUND. Then wait (with no lock of a request that moves), take a new ticket, and find
 * the path again. Tickets are never 0. */
uint64_t sync_names(struct sync *s);
void sync_names_wait(struct sync *s, const char *path);
/* Has path kept its meaning since the ticket? True holds moves back until sync_names_leave, which
 * must come soon. */
bool sync_names_enter(struct sync *s, uint64_t names, const char *path);
void sync_names_leave(struct sync *s);

/* A folder is about to get another name, with everything below it, or two paths to change places
 * (swap). Both names were found with the ticket; ERR_NOTFOUND after a wait: find them again.
 * Until sync_move_end nothing of what lies in either is journaled. */
struct sync_moving;
int sync_move_begin(struct sync *s, uint64_t names, const char *from, const char *to,
	struct sync_moving **out);
enum sync_moved { SYNC_NOT_MOVED, SYNC_MOVED, SYNC_SWAPPED };
void sync_move_end(struct sync *s, struct sync_moving *m, enum sync_moved done);
/* Before sync_move_end: fn for every path that is noted below either name. What was noted below
 * one when the move began is noted below the other as well, and is to be handed to sync_path. */
int sync_move_noted(struct sync *s, struct sync_moving *m,
	int (*fn)(void *arg, const char *path), void *arg);

/* A path is about to come or go (design 4): noted and synced before this returns, and forgotten
 * when the path's next batch is in the journal. names: the ticket with which the path was found,
 * or 0; ERR_NOTFOUND, after a wait: a move came in between, find it again. */
int sync_note(struct sync *s, const char *path, uint64_t names);
/* The same before what is called so is removed or gets another name. */
int sync_note_leaving(struct sync *s, const char *path, uint64_t names);

/* True if the index of dir with these attributes is not the one that the last batch was made
 * from: the lazy check after a clean stop. */
bool sync_index_moved(
	struct sync *s, const char *dir, uint64_t ino, uint64_t size, uint64_t mtime);

/* The body of dir/uid. is about to be unlinked: if a live peer may still need it, a link in
 * .twinspool/kept/ stays until that peer has confirmed. */
void sync_keep_body(struct sync *s, const char *dir, uint32_t uid);
/* A link of the body of (from_dir, from_uid) was made at (dir, uid): so that it travels as a
 * reference. */
void sync_linked(struct sync *s, uint64_t ino, const char *dir, uint32_t uid);

/*
 * Everything handed in up to now, of these kinds at least (bits), is to be confirmed by every peer
 * at the level of the strongest kind. True: fn is called, once, perhaps before this returns, from
 * any thread and without a lock: 0, or a code when no peer will ever confirm it. False: there is
 * nothing to wait for.
 */
typedef void sync_confirmed_fn(void *arg, int code);
bool sync_waits(struct sync *s, unsigned kinds); /* whether that may be true */
bool sync_confirm(struct sync *s, unsigned kinds, sync_confirmed_fn *fn, void *arg);
/* No peer confirms, and nothing new may be let in (refuse). */
bool sync_refusing(struct sync *s);
/* An administrator's word: who waits is answered, and nobody waits until the peers have caught
 * up. How many it were. */
unsigned sync_force(struct sync *s);
bool sync_forced(struct sync *s); /* that is so */

/* Waits until every peer has applied everything handed in up to now. on (may be NULL) is asked a
 * few times a second whether to go on. 0, ERR_TIMEOUT, or ERR_CLOSED when stopping or told to;
 * lack_out (may be NULL) says what is missing. */
typedef bool sync_on_fn(void *arg);
int sync_wait(struct sync *s, uint64_t timeout_ms, sync_on_fn *on, void *on_arg,
	struct buf *lack_out);
/* As sync_wait, then compares the sum of all mailboxes with every peer. Where they differ all mailboxes
 * are compared, which is waited for: ERR_SUM if they still differ; else 0, and lack_out says what
 * was found. */
int sync_prove(struct sync *s, uint64_t timeout_ms, sync_on_fn *on, void *on_arg,
	struct buf *lack_out);
/* True once each peer has said hello since the start (or there are none). */
bool sync_greeted(struct sync *s);

struct sync_position {
	uint64_t epoch, run, seq;
};

/* What was sent of one kind of message; bytes before compression. */
struct sync_sent_facts {
	const char *kind; /* a constant */
	uint64_t messages, bytes;
};

/* What is sent, by what it says; the name is that of the metrics. */
#define SYNC_CHANGE_TABLE(X) \
	X(SYNC_CHANGE_APPEND, "append") /* a record; its message is BODY */ \
	X(SYNC_CHANGE_FLAGS, \
		"flags") /* of one message, or what else its record says */ \
	X(SYNC_CHANGE_EXPUNGE, "expunge") /* or unlink, or drop from the index */ \
	X(SYNC_CHANGE_CREATE, "create") /* a mailbox */ \
	X(SYNC_CHANGE_RENAME, "rename") /* of a mailbox or folder */ \
	X(SYNC_CHANGE_REMOVE, "remove") /* a mailbox */ \
	X(SYNC_CHANGE_HEADER, "header") /* ACL, quota root, name, owner, modes */ \
	X(SYNC_CHANGE_COUNTS, "counts") /* the index header alone, as by a SELECT */ \
	X(SYNC_CHANGE_ANNOTATION, "annotation") \
	X(SYNC_CHANGE_FILE, "file") /* a path that is no mailbox's */ \
	X(SYNC_CHANGE_BODY, "body") /* a message, or such a file's content */
#define SYNC_CHANGE_ENUM(id, name) id,
enum sync_change { SYNC_CHANGE_TABLE(SYNC_CHANGE_ENUM) SYNC_CHANGES };
#undef SYNC_CHANGE_ENUM
extern const char *const sync_change_names[SYNC_CHANGES];

/* How many, and their share of the bytes that left: what is deflated together is shared by size. */
struct sync_change_facts {
	uint64_t n, bytes;
};

struct sync_peer_facts {
	char name[SYNC_NAME_MAX];
	char address[300];
	char state[32]; /* streaming, comparing, behind, connecting, refused... */
	char error[600]; /* last, "" if none */
	uint64_t sent, received, flushed, applied;
	uint64_t lag_ms; /* age of the oldest batch it has not applied */
	uint64_t lag_seqs;
	bool connected;
	/* catch-up, 0 when none runs */
	uint64_t mailboxes_done, mailboxes_total, messages_done, messages_total,
		bytes_done;
	uint64_t bytes_per_s, left_s;
	uint64_t wire_sent, wire_got, raw_sent, raw_got;
	unsigned n_sent_kinds;
	struct sync_sent_facts sent_kinds[SYNC_SENT_KINDS];
	struct sync_change_facts sent_changes[SYNC_CHANGES];
	uint64_t
		sent_other; /* of wire_sent: confirmations, comparing, heartbeats, TLS */
	uint64_t n_quarantined; /* there; as it said last */
};

/* Upper bounds of the classes of sync_level_facts.waits; the last class has none. */
enum { SYNC_WAIT_BUCKETS = 14 };
extern const uint64_t sync_wait_bucket_ms[SYNC_WAIT_BUCKETS - 1];

enum sync_level_state {
	SYNC_LEVEL_LOCAL, /* nothing waits */
	SYNC_LEVEL_WAITING,
	SYNC_LEVEL_ALONE, /* no peer confirms: answers do not wait */
	SYNC_LEVEL_REFUSING, /* no peer confirms: no answers, nothing new */
	SYNC_LEVEL_FORCED, /* as ALONE, by an administrator */
	SYNC_LEVEL_FAILED /* this side is stale */
};

struct sync_level_facts {
	enum sync_level level[SYNC_KINDS];
	enum sync_level_state state;
	bool refuse;
	uint64_t limit_ms;
	unsigned waiting;
	uint64_t oldest_ms; /* that the longest wait has lasted */
	uint64_t alone_since; /* wall ns, 0: not alone */
	uint64_t alone_ms; /* clock_ms of the same */
	uint64_t alones; /* how often */
	uint64_t unconfirmed; /* waits that ended without the peers */
	uint64_t waits_total, waited_ms;
	uint64_t waits[SYNC_WAIT_BUCKETS];
};

enum { SYNC_ASIDES_LISTED = 64 };

struct sync_quarantine_facts {
	unsigned peer; /* whose, in a list of peers' */
	char dir[300];
	uint32_t uid;
	char check[32];
	char text[400];
	uint64_t since; /* wall ns; 0 in a list of peers' */
};

struct sync_facts {
	enum sync_role role;
	struct sync_position position; /* of the last batch in our journal */
	uint64_t journal_first, journal_bytes;
	uint64_t queued; /* handed in, not yet journaled */
	uint64_t mailboxes;
	uint64_t batches, bodies, body_bytes; /* sent since the start */
	uint64_t applied_batches, replay_pending;
	uint64_t held_run, held_received,
		held_applied; /* a standby: of the active's journal */
	uint64_t later_epoch; /* 0, or we are active in an older one than this */
	char stale[400]; /* what that means and what to do, "" if it is not so */
	char stalled[200]; /* why nothing is applied at the moment, "" if it is */
	unsigned n_peers;
	struct sync_peer_facts peers[SYNC_PEERS_MAX];
	struct sync_level_facts level;
	unsigned n_quarantined;
	unsigned n_listed; /* how many of them are below */
	struct sync_quarantine_facts quarantined[SYNC_ASIDES_LISTED];
	unsigned n_peer_listed; /* of those of the peers, all together */
	struct sync_quarantine_facts peer_quarantined[SYNC_ASIDES_LISTED];
};
void sync_facts(struct sync *s, struct sync_facts *out);

/* .twinspool/mailboxes/<uniqueid>/: the directory of an id, or ERR_NOTFOUND; and its state. */
int
sync_mailbox_by_id(struct sync *s, const char *uniqueid, char *dir_out, size_t size);
int sync_mailbox_state(struct sync *s, const char *dir, struct mbox_state *out);
/* Calls fn for each mailbox; fn must not call sync.h. */
void sync_each_mailbox(struct sync *s,
	void (*fn)(void *arg, const char *dir, const char *uniqueid), void *arg);

#endif
