/*
 * rig.h - small mailboxes on a real disk, made and changed with our own encoders as Cyrus would:
 * records first, the header last, with the right counters and sums.
 *
 * A rig remembers which records a commit touched and what they were, as the capture would, and
 * the mailbox's state as of the last delta. Failures of the rig itself abort the test.
 */
#ifndef TESTS_LIB_RIG_H
#define TESTS_LIB_RIG_H

#include "meta/batch.h"
#include "meta/mbox.h"
#include "meta/spool.h"

#define RIG_MAX 600
#define RIG_MAX_ANNOTS 40

struct rig_annot {
	uint32_t uid;
	char entry[40], userid[20], value[60];
	uint64_t modseq;
	uint8_t flags;
};

struct rig {
	struct spool *sp;
	char dir[200], uniqueid[40];
	struct index_header h;
	struct index_record rec[RIG_MAX];
	struct rig_annot annots[RIG_MAX_ANNOTS];
	size_t n_annots;
	char names[4000]; /* cyrus.header */
	char keywords[20][20];
	size_t n_keywords;
	bool exists;
	bool noise; /* what is appended does not deflate */

	/* since the last delta */
	struct mbox_touched touched[RIG_MAX];
	size_t n_touched;
	bool annots_touched;
	uint8_t *old_index; /* a repack replaced it */
	size_t old_size;
	struct mbox_state state;
};

/* An empty mailbox of that index version, not yet on disk. */
void rig_init(struct rig *g, struct spool *sp, const char *dir, const char *id,
	uint32_t minor);
void rig_fini(struct rig *g);
/* The mailbox as it was created: header file, index, no messages. */
void rig_create(struct rig *g);

/* Changes; they reach the disk with rig_commit. */
uint32_t rig_append(struct rig *g, size_t size);
/* The message of another mailbox, linked. */
uint32_t rig_copy(struct rig *g, const struct rig *from, uint32_t uid);
void rig_flag(struct rig *g, uint32_t uid, uint32_t toggle);
void rig_keyword(struct rig *g, uint32_t uid, const char *name);
void rig_expunge(struct rig *g, uint32_t uid);
void rig_unlink(struct rig *g, uint32_t uid);
void rig_annotate(struct rig *g, uint32_t uid, const char *entry, const char *value);
/* A SELECT of the owner. */
void rig_select(struct rig *g);
void rig_commit(struct rig *g);
/* Drops unlinked records, renumbers, to that version (0: the same). Its own commit. */
void rig_repack(struct rig *g, uint32_t minor);
/* A random transaction, committed; some change nothing. */
void rig_random(struct rig *g);
/* A random live UID; 0 if no message is live. */
uint32_t rig_any(const struct rig *g);

/* The batch since the last delta, through its bytes. raw owns them. */
int rig_delta(struct rig *g, struct buf *raw, struct batch *out);
/* Option bits of the header. */
void rig_options(struct rig *g, uint32_t options);

/* A peer: applies batches, stages the bodies that it is asked for from the rig's spool. */
struct rig_peer {
	struct spool *sp;
	struct spool *from; /* bodies are fetched here */
	struct mbox_state state;
	struct mbox_env env;
	bool in_place; /* what begin_in_place answers */
	bool keep; /* what keep_body answers */
	int held; /* begun, not ended */
	unsigned fetched, spread; /* bodies; lists that any thread may help with */
	struct mbox_fault fault;
};
void rig_peer_init(struct rig_peer *p, struct spool *sp, struct spool *from);
/* mbox_apply until it needs no more bodies. */
int rig_apply(struct rig_peer *p, const struct batch *b, enum mbox_apply_mode mode);
/* NULL, or how the two mailboxes differ: records, bodies, names, annotations, header, sums. */
const char *
rig_differ(struct spool *a, const char *dir_a, struct spool *b, const char *dir_b);

/* One mailbox, its peer, and the bytes of the last batch; spools of their own. */
struct rig_pair {
	char root[2][300];
	struct spool *a, *b;
	struct rig g;
	struct rig_peer p;
	struct buf raw;
	struct batch batch;
};
struct rig_pair *rig_pair_open(uint32_t minor);
void rig_pair_close(struct rig_pair *x);
/* Delta and apply; 0 also when nothing changed. Says what failed. */
int rig_step(struct rig_pair *x, enum mbox_apply_mode mode);

/* The peer's tree copied to that folder, and put back from it. */
void rig_save(struct rig_pair *x, const char *to);
void rig_restore(struct rig_pair *x, const char *from);
/* The peer's process is gone: a new one opens the spool and knows nothing. */
void rig_restart(struct rig_pair *x);

/* The two mailboxes are equal, and so are the states of both sides. */
#define RIG_SAME(x) \
	do { \
		const char *rig_wrong = \
			rig_differ((x)->a, (x)->g.dir, (x)->b, (x)->g.dir); \
		if (rig_wrong != NULL) { \
			t_fail(__FILE__, __LINE__, "they differ: %s", rig_wrong); \
			return; \
		} \
		CHECK(sum_eq(mbox_sum_total(&(x)->g.state.sum), \
			mbox_sum_total(&(x)->p.state.sum))); \
	} while (0)

#endif
