/*
 * mbox.h - one mailbox on disk: its state, what changed since a state, and a batch applied in
 * Cyrus's own order.
 *
 * struct mbox_state is what the store remembers of a mailbox as of its last batch. It is the
 * "before" of the next one; it never holds a list of records.
 *
 * Threads  any, but one at a time per mailbox; callers hold that mailbox's lock (a mutex of
 *          theirs, by directory). Nothing here waits for the network.
 * Errors   as err.h; text about what is wrong, for the administrator, goes to struct mbox_fault.
 */
#ifndef META_MBOX_H
#define META_MBOX_H

#include "meta/batch.h"
#include "meta/index.h"
#include "meta/sum.h"

struct spool;
struct spool_place;

struct mbox_state {
	struct index_header header; /* minor_version 0: nothing is known */
	struct mbox_sum sum;
	struct change_owner owner;
	char uniqueid[64];
	/* the index file as of then: a cheap sign that nothing was missed (design 4) */
	uint64_t index_mtime, index_size, index_ino;
	/* Not stored: a piece of a repair (BATCH_PARTIAL) was the last that was applied, so that
	 * every record was read when the repair began. */
	bool in_pieces;
};

/* State <-> bytes of the store; versioned, ERR_VERSION / ERR_MANGLED. */
int mbox_state_encode(const struct mbox_state *s, struct buf *out);
int mbox_state_decode(const void *p, size_t n, struct mbox_state *out);

/* Why a mailbox must be set aside: one line for a human. */
struct mbox_fault {
	uint32_t uid; /* 0: the mailbox as a whole */
	char check[32]; /* name of the invariant, as fsck prints it: "record-crc" */
	char text[200]; /* what was found and what to do */
};

/* Reads the whole mailbox and computes its state; checks header, records, names, annotations
 * (not bodies). known: what was known of it, or NULL; names that the index does not confirm are
 * taken if they are those, or came after it (Cyrus was killed before it wrote the index header,
 * and goes by them itself). ERR_NOTFOUND if there is no cyrus.index; ERR_BUSY while Cyrus is in
 * the middle of something (no header yet, annotations newer than the index), and for names that
 * nothing confirms: ask again, and if it stays so, the fault says what is wrong. Allocates for
 * the duration only. */
int mbox_load(struct spool *sp, const char *dir, const struct mbox_state *known,
	struct mbox_state *out, struct mbox_fault *fault);

/* A record that was written since the state: its position and what it was before. */
struct mbox_touched {
	uint32_t recno; /* 0-based */
	bool had; /* before is valid: it was counted then */
	struct index_record before;
};

/* Where a body was already committed under another name, if the caller knows; asked for files that
 * have more than one. ino is the file's. Returns true and fills dir (BATCH_MAX_PATH bytes) and uid. */
typedef bool mbox_ref_fn(void *arg, const char *dir, uint32_t uid, uint64_t ino,
	char *ref_dir, uint32_t *ref_uid);

struct mbox_delta {
	const char *dir;
	const struct mbox_state
		*before; /* NULL or minor_version 0: the mailbox is new */
	const struct mbox_touched *touched;
	size_t n_touched;
	bool derive; /* touched is not known: look at every record above the state's modseq,
			  * recompute the sum from the file, state no sum before */
	bool whole; /* name every record */
	bool annots; /* cyrus.annotations may have changed */
	bool names; /* cyrus.header was replaced, whatever the index says */
	bool locked; /* a writer is at work: names that the index does not confirm yet wait */
	const char
		*from_dir; /* see batch.h; caches stay behind, they are there as well */
	size_t limit; /* more records than this are ERR_LIMIT: mbox_piece. 0: any number */
	mbox_ref_fn *ref;
	void *ref_arg;
};

/* The batch that leads from the state to what is on disk now, and the new state. Also used after
 * a repack (derive false, touched empty, generation changed): purged UIDs are found by comparing
 * with old_index, the bytes of the index that was replaced; without it the batch is DERIVED.
 * Every record it names was checked (CRC, GUID present; appends: file there, size right).
 *
 * state known, nothing else asked: only touched and new records are read, before is stated.
 * no state: CREATE, or with whole set WHOLE. derive: DERIVED. Option DELETED: REMOVE, state_out
 * is empty then.
 *
 * 0 with a fault named: the header does not add up, which the batch allows for.
 * ERR_NOTFOUND nothing changed (state_out is filled in: the stamp may be newer), or no state
 * before and no cyrus.index (state_out untouched). ERR_LIMIT. ERR_BUSY as for mbox_load. ERR_USAGE: a
 * record that the state counted was touched, and what it was before is not said: derive. */
int mbox_delta(struct spool *sp, const struct mbox_delta *d, const void *old_index,
	size_t old_size, struct batch *out, struct mbox_state *state_out,
	struct mbox_fault *fault);

/* What replay needs of its surroundings. All may be called from any thread. */
struct mbox_env {
	void *arg;
	/* Takes a body that arrived and was verified to its place. ERR_NOTFOUND; ERR_EXISTS:
	 * something has that name, nothing was done. */
	int (*take_body)(
		void *arg, const uint8_t guid[SHA1_LEN], const struct spool_place *to);
	/* It is in its place already. May be NULL. */
	void (*drop_body)(void *arg, const uint8_t guid[SHA1_LEN]);
	/* A body that is to go may still be named by somebody: true = keep it aside. */
	bool (*keep_body)(void *arg, const uint8_t guid[SHA1_LEN]);
	/* May (dir, name), open as fd, be changed in place? True takes it until end_in_place. */
	bool (*begin_in_place)(void *arg, const char *dir, const char *name, int fd);
	void (*end_in_place)(void *arg, const char *dir, const char *name, int fd);
	/* Calls fn(fn_arg, i) for each i below n, in any order and on several threads, and returns when
	 * all are done. May be NULL. */
	void (*spread)(
		void *arg, void (*fn)(void *fn_arg, size_t i), void *fn_arg, size_t n);
};

enum mbox_apply_mode {
	MBOX_CHECK, /* the sum before must match the state */
	MBOX_REDO, /* after a crash: whatever is there, make it so; state recomputed from disk */
	MBOX_REDO_ON /* behind a redo that fitted: the state is known, bodies still are not */
};

/* What ERR_NEED asks for. */
struct mbox_need {
	char path
		[BATCH_MAX_PATH]; /* a path batch: whose content it is; uid is 0 then */
	uint8_t guid[SHA1_LEN];
	uint64_t size;
	uint32_t uid;
};

/* Applies a mailbox batch in Cyrus's order (body, cache, annotations, cyrus.header, records,
 * index header) and checks the sum after and Cyrus's own CRCs. state is in and out. A batch
 * whose sum after matches the state already is done (0). Nothing is synced: the caller syncs
 * the spool before it records "applied".
 *
 * ERR_NEED: need_out says which body; nothing visible was changed, call again when it is staged.
 * ERR_DIVERGED, ERR_SUM, ERR_CHECKSUM, ERR_MANGLED in MBOX_CHECK: the mailbox is as it was.
 * ERR_IO and the like after the writing began: as after a crash, so redo.
 *
 * MBOX_REDO takes the batches since the last sync again in order, over a disk that may be
 * further on. All but the last may then return ERR_SUM (the disk is ahead) or ERR_DIVERGED
 * (the mailbox is gone already); the last one must return 0. It is idempotent. From one that
 * returned 0 on, MBOX_REDO_ON does the next ones without reading the mailbox as a whole: the sum
 * before must match, but a body is believed only by its bytes. Where it fails, MBOX_REDO again.
 *
 * ERR_MORE: a derived or whole batch has another message under a UID than this mailbox, which is
 * as it was.
 *
 * A message that is dropped though it was never unlinked here, or that gives way to another
 * mailbox's, is kept aside (spool_keep) without asking. */
int mbox_apply(struct spool *sp, const struct batch *b, enum mbox_apply_mode mode,
	const struct mbox_env *env, struct mbox_state *state,
	struct mbox_need *need_out, struct mbox_fault *fault);

/* Applies a batch about paths outside mailboxes. Same errors. */
int mbox_apply_path(struct spool *sp, const struct batch *b, const struct mbox_env *env,
	struct mbox_need *need_out, struct mbox_fault *fault);

/* One record, for the comparison of a mailbox with the peer's. */
struct mbox_digest {
	uint32_t uid;
	uint32_t guid; /* its first four bytes, 0: none */
	uint64_t digest; /* the first 8 bytes of the record's encoded digest */
	uint64_t modseq;
	uint8_t gone; /* 1 expunged, 2 its message is unlinked */
};
/* Each record in order. A damaged one is left out, and so is one whose message is missing or of the
 * wrong size (one stat each): the peer then states it again. prove: also one whose young message is
 * not what its GUID says, by its bytes. */
typedef int mbox_digest_fn(void *arg, const struct mbox_digest *d);
int mbox_digests(
	struct spool *sp, const char *dir, bool prove, mbox_digest_fn *fn, void *arg);

/* Does the mailbox with those digests hold what ours never had or has lost: a UID beyond ours,
 * another message under a UID, a record further on than ours? forked: it has seen a life of ours that we know
 * nothing of, so that a message which we lack may be one that we lost as well. ERR_MORE, with the
 * UID, the check and the cure in the fault. */
int mbox_lacks(struct spool *sp, const char *dir, const struct mbox_digest *theirs,
	size_t n, bool forked, struct mbox_fault *fault);

/* A batch (DERIVED) that turns a mailbox with those digests (n pairs, ascending UID) into ours:
 * only what differs is named, UIDs that we lack are purged.
 *
 * A large one is cut: records with a UID below from_uid are left alone (0 at first), and at most
 * limit records are named. If that was not all, the batch is PARTIAL and *next_out the from_uid
 * of the following piece (else 0); purges and annotations go with the last one. Applying a PARTIAL batch leaves a mailbox that Cyrus could open: the index header
 * counts what is there (recomputed, with Cyrus's sums), highestmodseq and last_uid cover it; no
 * sum after is checked. A piece is made from the files of its own moment: what changed below
 * from_uid meanwhile has been journaled as a commit of its own, in between. A last piece is made
 * even if no record differs: names, annotations and header may. state_out is whole with the last
 * piece only: those between the first and the last read no more than their own records. */
int mbox_repair(struct spool *sp, const char *dir, const struct mbox_state *known,
	const struct mbox_digest *theirs, size_t n, uint32_t from_uid, size_t limit,
	mbox_ref_fn *ref, void *ref_arg, struct batch *out,
	struct mbox_state *state_out, uint32_t *next_out, struct mbox_fault *fault);

/* The mailbox stated in full by such pieces of d->limit records each, for whoever has nothing of
 * it. Of d count dir, before, from_dir, ref. */
int mbox_piece(struct spool *sp, const struct mbox_delta *d, uint32_t from_uid,
	struct batch *out, struct mbox_state *state_out, uint32_t *next_out,
	struct mbox_fault *fault);

#endif
