/*
 * node.h - this side as a whole: its parts, its peers, and what its duties share. Internal to
 * sync/.
 *
 * Threads  unless said otherwise a field belongs to the peer thread (the loop's). Capture's
 *          threads touch only the mailbox table, the out queue, refs, kept and the atomics.
 */
#ifndef SYNC_NODE_H
#define SYNC_NODE_H

#include "meta/base/buf.h"
#include "meta/mbox.h"
#include "sync/epoch.h"
#include "sync/held.h"
#include "sync/hub.h"
#include "sync/inbox.h"
#include "sync/journal.h"
#include "sync/kept.h"
#include "sync/loop.h"
#include "sync/mboxes.h"
#include "sync/moves.h"
#include "sync/moving.h"
#include "sync/notes.h"
#include "sync/outq.h"
#include "sync/refs.h"
#include "sync/session.h"
#include "sync/settled.h"
#include "sync/store.h"
#include "sync/sync.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

struct arrivals;
struct digest;
struct level;
struct replay;
struct spool;

/* A mailbox that a peer wants to be brought to our state, with what it has of it. */
struct repair {
	struct repair *next;
	char *dir;
	char uniqueid[64];
	bool present; /* at the peer */
	struct mbox_digest *digests;
	size_t n, cap;
	uint32_t from_uid; /* where the next piece begins */
	uint64_t highestmodseq; /* at the peer */
	uint64_t unsound_ms,
		again_ms; /* since when it is not sound here; the next look */
};

/* A body on its way out. */
struct outbody {
	uint8_t guid[SHA1_LEN];
	uint8_t *bytes; /* all of it, if it is small; else fd */
	int fd;
	uint64_t total, at;
	bool on;
};

/* A body that a peer asked for. */
struct wanted {
	struct wanted *next;
	uint8_t guid[SHA1_LEN];
	uint64_t size;
	uint32_t uid;
	char *dir;
};

struct peer {
	struct node *node;
	unsigned i;
	const struct sync_peer_conf *conf;
	struct session *session; /* NULL unless up */
	bool greeted; /* it said hello since our start */
	char error[600];
	/* sending: we are active */
	bool sending; /* START was sent */
	uint64_t epoch, run; /* of the START */
	uint64_t next; /* seq to read next from the journal */
	uint64_t sent; /* last seq sent */
	uint64_t visible; /* applied there: replayed, verified, to be seen */
	struct journal_peer cursor; /* its applied: also synced there */
	bool cursor_dirty;
	uint64_t reached[SYNC_LEVELS]; /* that it has confirmed */
	uint64_t cover; /* which says nothing below this seq */
	struct buf row; /* the batch that is being sent, its bodies first */
	struct pos row_pos;
	uint64_t row_next;
	bool row_held;
	int row_at; /* its folder, if row_at_on */
	bool row_at_on;
	struct batch batch; /* decoded from row */
	size_t body_next; /* its next change to look at */
	size_t told; /* bodies up to here are being read */
	bool slow; /* the last one came from the disk */
	struct outbody body;
	struct digest *digest; /* of a large one that is looked for, or NULL */
	uint64_t
		body_wait_ms; /* its folder is gone and nobody said where to: since then */
	struct wanted *wanted, **wanted_end;
	unsigned n_wanted;
	/* comparing */
	struct mboxent **sums; /* still to be listed */
	size_t n_sums, sums_at;
	bool sums_sent, diff_done;
	uint64_t sums_moves; /* moves that the list has seen */
	struct repair *repairs, **repairs_end; /* complete ones */
	struct repair *filling; /* its RECORDS are coming */
	size_t digests_held; /* in repairs */
	uint64_t ahead_bytes; /* of messages in rows of repairs not yet sent */
	bool comparing;
	bool forked; /* it may hold what we lost */
	bool fork_told; /* it was told what of that it is to set aside, and asked once more */
	struct refs *refs; /* bodies that this comparison has sent; NULL outside one */
	uint64_t repaired, to_repair, repaired_messages, repaired_bytes,
		repair_began_ms;
	/* proving */
	uint64_t prove_id, proved_id, prove_seq;
	uint64_t
		compared_at; /* the journal's last seq when a comparison was through, or UINT64_MAX */
	bool mending; /* the last comparison was begun by a proof that failed */
	bool proved_ok, proved_final; /* these four under the node's lock */
	uint64_t proved_mended; /* mailboxes that were compared for it */
	char proved_text[300];
	/* receiving: it is active */
	bool feeding; /* it sent START */
	struct pos fed; /* epoch and run of its batches */
	bool rebase; /* once the inbox is empty, received becomes this: */
	struct pos rebase_to;
	struct pos
		began; /* where its START begins: rows before it are of older times */
	bool extras_due; /* all sums were listed; see ask_extras */
	struct wire_ack acked;
	unsigned want; /* levels that it waits for */
	struct wire_confirm confirmed;
	uint32_t round; /* of the comparison */
	bool asides_told; /* it knows what we have set aside: we are a standby */
	bool withheld_told; /* it was told last that something is withheld: we are active */
	/* what it has set aside: we are active */
	uint32_t n_asides, n_asides_listed, asides_coming;
	struct sync_quarantine_facts *asides;
};

/* A body that came with a row. */
struct fresh_body {
	uint8_t guid[SHA1_LEN];
	struct pos pos;
};
enum { NODE_FRESH = 256 };

struct node {
	struct sync_conf conf;
	struct spool *spool;
	struct sync_hooks hooks;
	enum sync_role role;
	struct mboxes *mboxes;
	struct outq *outq;
	struct outq_item *stuck; /* taken from it and not yet journaled */
	struct refs *refs;
	struct kept *kept;
	struct moves *moves;
	_Atomic uint64_t moves_begun, moves_ended; /* of entries, to other names */
	struct moving *moving;
	struct notes *notes;
	struct settled *settled; /* notes that a sync of the journal will end */
	struct store *store;
	struct journal *journal;
	struct inbox *inbox;
	struct level *level;
	struct epoch epoch;
	_Atomic uint64_t
		later_epoch; /* of a peer; above ours: this active side is stale */
	struct buf line; /* epoch.line encoded, for HELLO */
	struct link_tls *tls;
	struct loop *loop;
	struct hub *hub;
	struct loop_hook hook;
	struct loop_call wake;
	struct loop_timer tick;
	struct loop_timer group; /* the next transaction of the journal */
	struct loop_timer ack; /* what is told of rows that are not all applied */
	uint64_t journaled_ms; /* the last one */
	/* Entries that are; and whether more may be found to differ: at a standby, until the active
	 * side goes on where it was or has named all. Read by workers. */
	_Atomic unsigned repairing;
	_Atomic bool unsure;
	/* entries that are open, and the first seq that was skipped for one: not yet applied */
	_Atomic unsigned open_repairs;
	uint64_t open_from;
	/* mailboxes to be asked for, as the session takes them; then DIFF, if that is due */
	struct mboxent **asks;
	size_t n_asks, cap_asks, asks_at;
	bool diff_due;
	bool owed_due; /* what is owed is to be stored */
	struct replay *replay;
	pthread_t thread;
	bool thread_runs, clean_start;
	bool compare_me; /* a standby: what it knew of its mailboxes was lost */
	struct peer peers[SYNC_PEERS_MAX];
	unsigned n_peers;
	_Atomic uint64_t journal_last; /* last seq in the journal */
	_Atomic uint64_t
		confirmed; /* smallest applied seq of the peers that hold something */
	_Atomic uint64_t asides; /* mailboxes in quarantine */
	uint64_t
		withheld_seq; /* active: who has applied this row lacks nothing of those that
				* were set aside and are no more */
	_Atomic bool
		withheld; /* a standby: rows do not come of all mailboxes, perhaps */
	_Atomic bool stopping;
	/* what arrived in this turn and goes to the inbox at its end */
	struct inbox_item *arrived;
	struct buf *arrived_bytes;
	size_t n_arrived, cap_arrived, arrived_size;
	uint64_t arrived_ms; /* the first of them */
	size_t n_logged; /* so many of them are in the log of arrivals */
	bool arrived_safe; /* all of them, and synced */
	struct arrivals *arrivals; /* NULL on the active side */
	struct pos unlogged; /* the last row that is in the inbox and not in that log */
	bool unsafe; /* a body of the next row may not be on disk */
	struct pos lacking; /* a body of that row may be missing until it is replayed */
	struct fresh_body fresh[NODE_FRESH]; /* the last ones */
	unsigned fresh_at;
	/* bodies being received, by peer one at a time */
	struct spool_stage *stage;
	uint8_t stage_guid[SHA1_LEN];
	uint64_t stage_at, stage_total;
	uint8_t *stage_small; /* instead of a file */
	struct held *held;
	/* waiters of sync_wait, and facts for other threads */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct sync_facts facts; /* under lock */
	bool greeted_all; /* under lock */
	uint64_t prove_ids; /* under lock: last asked for */
	uint64_t batches_sent, bodies_sent, body_bytes_sent;
	uint64_t next_look_ms, next_kept_ms, next_asides_ms;
};

struct sync {
	struct node node;
};

/* commit.c: any thread. A batch that was built goes to the out queue under its entry's lock. noted:
 * the mark of the path's notes before it was looked at; they end with the batch. */
int node_enqueue(struct node *n, struct mboxent *e, struct batch *b, uint64_t noted,
	sync_done_fn *done, void *done_arg);
/* An mbox_ref_fn by what refs knows. */
bool node_ref_in(struct node *n, struct refs *refs, const char *dir, uint32_t uid,
	uint64_t ino, char *ref_dir, uint32_t *ref_uid);
/* Sets a mailbox aside on the active side: logs, and tells the peer thread. Entry lock held. */
void node_set_aside(
	struct node *n, struct mboxent *e, const struct mbox_fault *fault, int code);
/* A call that found nothing to journal still answers, behind what was queued before it. The notes
 * of a path that is as it was journaled (NULL: it is not) have had their time then. */
void node_enqueue_nothing(struct node *n, const char *key, const char *note,
	uint64_t noted, sync_done_fn *done, void *done_arg);
/* Cyrus makes an index empty before it writes the header. One that stays so is no mailbox yet,
 * and the note of its making stays as well. */
bool node_index_is_empty(struct node *n, const char *dir);
/* Before the threads: a lone path's entry, NULL if it has none. Nothing is journaled. */
int node_path_adopt(
	struct node *n, const char *path, const struct stat *st, struct mboxent **out);

bool node_is_gone(struct node *n, const char *dir);

/* paths.c. A lone path's entry and batch as it is on disk now; a mailbox whose folder went is
 * removed. names: the ticket that the path was found with, see sync.h, or 0. */
int node_path_now(struct node *n, const char *path, uint64_t names, sync_done_fn *done,
	void *done_arg);
/* A folder has another name now: its row, and everything that follows from it. */
void node_move(struct node *n, const char *from, const char *to);
/* The same for two paths that changed places. */
void node_swap(struct node *n, const char *one, const char *two);
/* Calls fn for each of the moves that make a swap. */
typedef void node_step_fn(void *arg, const char *from, const char *to);
void node_swap_steps(const char *one, const char *two, node_step_fn *fn, void *arg);
/* States of everything in and below a folder follow its new name; journal: queue that for the
 * store, else they are only marked dirty. */
void node_move_entries(struct node *n, const char *from, const char *to, bool journal);

/* adopt.c: the very first start on an existing spool, or one without its journal, before the threads
 * run. Announced before the epoch is founded, it is due until it got through, if need be at a later
 * start. */
int adopt_announce(struct node *n);
int adopt_is_due(struct node *n, bool *due_out);
int adopt_spool(struct node *n);
/* A standby that adopted is compared: whether that is due still; and it was begun. */
int adopt_load(struct node *n);
void adopt_compared(struct node *n);

/* gap.c: before the threads run. */
void gap_moves(struct node *n); /* moves that are in the journal */
int gap_load(struct node *n); /* states from the store into the table */
int gap_close(struct node *n,
	bool takeover); /* an unclean start of an active: what the journal missed */

/* duty/hello.c */
/* What an earlier life learned: at open. */
int hello_load(struct node *n);
/* This active side is stale: the line that says so, with the cure. */
bool hello_stale(struct node *n, char *text, size_t size);
extern const struct session_ops duty_ops; /* what a session calls */
struct peer *duty_peer(struct node *n, struct session *s);

/* duty/send.c */
void send_start(struct peer *p); /* judge where it stands, START, then pump */
void send_stop(struct peer *p);
void send_pump(struct peer *p); /* as much as the session takes */
int send_on_ack(void *node, struct session *s, const void *msg);
/* The out queue into the journal; then pumps every peer. */
void send_journal(struct node *n);
/* The same, now or in a moment: what comes close behind a transaction waits for what comes with it. */
void send_soon(struct node *n);
void send_tick(struct node *n);

/* duty/body.c: one body of a peer is open at a time. Opens and checks it: ERR_BODY if what is there is
 * not what the GUID says, ERR_BUSY while a large one is being looked at (send_pump will be called). */
/* What a row of that seq calls dir may have another name by now. name NULL: dir is the file. */
int body_find(struct peer *p, uint64_t seq, const char *dir, const char *name,
	const uint8_t guid[SHA1_LEN], uint64_t size);
/* The same of the row that is held, in its mailbox. */
int body_of_row(
	struct peer *p, const char *name, const uint8_t guid[SHA1_LEN], uint64_t size);
/* It will be asked for soon: the kernel begins to read it. */
void body_ahead(struct peer *p, const char *name);
/* Sends what is left of it. True when it is through. */
bool body_send(struct peer *p);
void body_close(struct peer *p);
/* Opens one that the peer asked for; between two rows, so that bodies never mix. False: there is none,
 * or not now. One that is not there is answered GONE, and true. */
bool body_wanted(struct peer *p);
void body_forget_wanted(struct peer *p);
int body_on_need(void *node, struct session *s, const void *msg);

/* duty/tally.c: counts the row that was queued just now, or bytes of a body (whole: the last ones). */
void tally_row(struct peer *p);
void tally_body(struct peer *p, size_t bytes, bool whole);
void tally_facts(const struct session_stats *stats, struct sync_peer_facts *pf);

/* duty/digest.c: ERR_BUSY: not yet, send_pump will be called; what it finds is known until forgotten. */
int digest_file(struct peer *p, int fd, const struct stat *st, uint8_t out[SHA1_LEN]);
void digest_forget(struct peer *p);

/* duty/recv.c */
int recv_on_start(void *node, struct session *s, const void *msg);
int recv_on_batch(void *node, struct session *s, const void *msg);
int recv_on_body(void *node, struct session *s, const void *msg);
int recv_on_gone(void *node, struct session *s, const void *msg);
/* More bodies wait for replay than memory is meant for, and replay is at it. */
bool recv_no_room(void *node, struct session *s);
void recv_stop(struct peer *p);
/* End of a turn: what arrived goes to the inbox, then to replay; ACK if anything changed. */
void recv_flush(struct node *n);
void recv_ack(void *node); /* ACK whatever it says */
void recv_need(struct node *n, const struct mbox_need *need, const char *dir);

/* duty/compare.c */
void compare_start(struct peer *p);
void compare_stop(struct peer *p);
/* All of it, in the middle of the stream. */
void compare_again(struct peer *p);
/* It has seen a life of this side of which nothing is known here (beyond), or had the last time and
 * was not compared to the end since. */
void compare_fork(struct peer *p, bool beyond);
/* Lists sums, builds repairs, as far as the session takes them. */
void compare_pump(struct peer *p);
/* One mailbox, because something may differ: tells the peer our sum. */
void compare_one(struct node *n, const char *dir);
/* More that is to be repaired waits than memory is meant for. */
bool compare_no_room(struct peer *p);
int compare_on_diff(void *node, struct session *s, const void *msg);
int compare_on_records(void *node, struct session *s, const void *msg);
int compare_on_quarantine(void *node, struct session *s, const void *msg);

/* duty/ask.c */
/* Names what we have and the list of sums had not, once no older row can make more of it. */
void ask_extras(struct node *n, struct peer *p);
int ask_on_sums(void *node, struct session *s, const void *msg);
int ask_on_list(void *node, struct session *s, const void *msg);
/* A standby's mailbox does not match: asks the active side for it. */
void ask_mailbox(struct node *n, const char *dir);
/* A folder that could not be moved (to target) or removed (NULL): asks for each mailbox in it,
 * under the name that it has and the one that it should have. */
void ask_folder(struct node *n, const char *from, const char *target);
/* One that a restart must not forget to ask for. */
void ask_anew(struct node *n, const char *dir);
/* A folder was moved: what was asked for under its old name is asked for again. */
void ask_moved(struct node *n, const char *target);
/* A stream begins in a new session: asks again for what was not finished. */
void ask_resume(struct node *n);
void ask_repaired(struct node *n, const char *dir);
/* The entry is being compared, or no more. Entry lock held. */
void ask_mark(struct node *n, struct mboxent *e, bool repairing);
/* Rows of a mailbox are skipped from seq on until it is repaired. */
void ask_open(struct node *n, struct mboxent *e, uint64_t seq);
/* Those in and below a folder that was moved are so under their new names. */
void ask_open_moved(struct node *n, const char *from, const char *to);
/* It is, or never will be; then not before it counts as set aside: a worker that unlinks just now
 * asks for either. */
void ask_end(struct node *n, struct mboxent *e);
/* Any thread: may a mailbox that is set aside, or not equal yet, name a body that another drops? */
bool ask_keeps(const struct node *n);
int ask_on_diff(struct node *n, const struct wire_diff *m);
/* What was asked for because a batch did not fit outlives the process. */
void ask_load(struct node *n);
/* What became owed since is stored: before the rows that may say where it went are. */
void ask_save(struct node *n);
/* A comparison begins that states everything: nothing is owed from before. */
void ask_forget_owed(struct node *n);
/* Asks as far as the session takes it. */
void ask_pump(struct node *n);

/* duty/confirm.c */
unsigned
confirm_kinds(const struct batch *b); /* bits 1 << enum sync_kind; any thread */
/* The active side: beginning, behind START; the peer is equal now; end; an ACK. */
void confirm_start(struct peer *p, bool stream);
void confirm_compared(struct peer *p);
void confirm_stop(struct peer *p);
void confirm_from_ack(struct peer *p, const struct wire_ack *m);
int confirm_on_confirm(void *node, struct session *s, const void *msg);
/* A standby: what is in memory, before it is stored (true: sent, and should leave first); then the
 * rest. */
int confirm_on_want(void *node, struct session *s, const void *msg);
bool confirm_early(struct peer *p);
bool confirm_flushed(struct peer *p); /* the same for what is in the log */
void confirm_late(struct peer *p, const struct inbox_facts *f);

/* duty/asides.c */
void asides_tick(struct node *n, uint64_t now); /* a standby tells its list */
/* A standby has moved a folder: what is set aside for good in and below it is so under its new name,
 * the rest is asked for there. */
void asides_move(void *node, const char *from, const char *to);
bool asides_take(struct peer *p, const struct wire_quarantine *m);
void asides_facts(const struct peer *p, struct sync_facts *f);

/* duty/withheld.c. At open: what an earlier life of the active side withheld; a standby does not know. */
void withheld_load(struct node *n);
/* The active side: of the rows up to seq some were withheld, or state what was; store: for a later
 * life, too. */
void withheld_upto(struct node *n, uint64_t seq, bool store);
/* Says whether anything is: behind START; before a row, where that is news (false: not now); and
 * when it is over. */
bool withheld_begin(struct peer *p);
bool withheld_before_row(struct peer *p);
void withheld_end(struct peer *p);
/* A standby is told. */
int withheld_take(struct peer *p, const struct wire_quarantine *m);

/* duty/look.c: a few times a second, on the peer thread. */
void look_tick(struct node *n);

/* duty/flush.c: a standby. What a crash has left in the log of arrivals, before the threads run. */
int flush_open(struct node *n);
/* Does somebody wait for this disk? */
bool flush_is_wanted(const struct node *n);
/* A small body came; a large one is staged. */
void
flush_body(struct node *n, const uint8_t guid[SHA1_LEN], const void *p, size_t size);
void flush_staged(struct node *n, const uint8_t guid[SHA1_LEN]);
void flush_row(struct node *n, const struct inbox_item *row);
/* The rows that arrived (there are some) are in the log, and it is synced. False: they are not,
 * and must be synced in the inbox. */
bool flush_arrived(struct node *n);
/* A session is over: a body without its row stays so. */
void flush_end(struct node *n);
/* Is all that was received on disk with its bodies? */
bool flush_is_safe(const struct node *n, const struct inbox_facts *f);
/* The inbox is about to begin anew, perhaps at a lower position. False: not all is recorded. */
bool flush_forget(struct node *n, const struct inbox_facts *f);
void flush_trim(struct node *n, const struct inbox_facts *f);

/* duty/whole.c: a standby. That row has arrived; has every body that it names? */
void whole_row(struct peer *p, const struct batch *b, struct pos pos);

/* duty/prove.c */
void prove_tick(struct node *n);
int prove_on_verify(void *node, struct session *s, const void *msg);
int prove_on_verified(void *node, struct session *s, const void *msg);

/* sync.c */
/* After every change of the quarantine: who removes a body looks at the count. */
void node_count_asides(struct node *n);
void node_note_error(struct peer *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* facts.c: the peer thread. Positions, and waiters look again; and all that status shows. */
void node_publish(struct node *n);
void node_publish_all(struct node *n);

#endif
