/*
 * apply.h - one batch on its way onto the disk: what the files apply*.c share. For these only.
 */
#ifndef META_APPLY_H
#define META_APPLY_H

#include "meta/scan.h"

/* What becomes of one UID. */
struct apply_item {
	uint32_t uid;
	const struct change_record *c; /* NULL: the record goes */
	uint8_t guid[SHA1_LEN]; /* of a purge; zeros: whatever is there */
	bool had; /* old is valid */
	bool drop; /* the record is no longer there afterwards */
	bool skip; /* nothing to do: the disk is as new or newer (redo) */
	bool body; /* its message must be in place */
	bool placed; /* and is */
	const struct change_body
		*file; /* its owner and mode, if they are not the usual ones */
	bool unlink; /* its message goes, after the index is written */
	bool keep; /* and is kept aside whatever anybody says */
	uint32_t recno; /* had: position in the old index; else where it is inserted */
	struct index_record old, now;
	const uint8_t *cache; /* a cache record to append, or NULL */
	size_t cache_len;
	uint8_t *cache_own; /* the same if it was read here */
};

/* The folder that a message was last linked from; at is -1 if there is none. */
struct apply_source {
	const char *dir;
	int at, cache; /* descriptors; cache -1: not looked at, -2: not there */
	struct ixfile ix; /* if it is open */
};

struct apply {
	struct spool *sp;
	const struct batch *b;
	enum mbox_apply_mode mode;
	const struct mbox_env *env;
	struct mbox_state *state;
	struct mbox_need *need;
	struct mbox_fault *fault;

	/* what is there */
	bool exists;
	bool full; /* scan is filled in; else only ix */
	bool piece; /* not full, and yet the batch need not fit: a later piece of a repair */
	struct scan scan;
	struct ixfile ix_own;
	const struct ixfile *ix; /* of scan or the own one */
	struct mbox_sum sum_before;

	/* what will be */
	struct apply_item *items; /* ascending UID */
	size_t n, cap;
	struct index_header h;
	struct mbox_sum sum;
	struct change_owner owner;
	const struct change_bytes *names_change;
	struct scan_names names_now; /* if loaded: as they are */
	struct scan_names names_new;
	const struct scan_names *names; /* those after */
	bool annots_changed;
	struct scan_annots annots_now; /* if loaded: as they are */
	struct scan_annots annots_new; /* if changed: as they will be */
	bool damaged; /* the index that was there could not be read as a whole */
	bool rewrite; /* index and cache are made anew */
	bool sum_ok; /* the sum after is the batch's */
	bool index_in_place; /* written where ix_own was opened */
	struct apply_source source;
};

/* Everything that can be known before anything is written. */
int apply_plan(struct apply *a);
void apply_fini(struct apply *a);

/* Calls fn for each record of the result in order; item NULL: as it was. */
typedef int
apply_result_fn(void *arg, const struct index_record *r, struct apply_item *item);
int apply_results(struct apply *a, apply_result_fn *fn, void *arg);

/* Does the batch state records whatever is there (derived, whole)? */
bool apply_overrides(const struct batch *b);
const struct scan_annots *apply_annots_before(const struct apply *a);
/* Counters and sums of the new header (apply_total.c). ERR_SUM. */
int apply_totals_in_step(struct apply *a);
int apply_totals_of_piece(struct apply *a);
int apply_totals_in_full(struct apply *a);

/* Bodies in place: ERR_NEED. Nothing visible changes. */
int apply_bodies(struct apply *a);
/* Cache, annotations, names, records, header, in this order. */
int apply_write(struct apply *a);
/* Reads back what was written and sums it up. */
int apply_verify(struct apply *a);
/* Unlinks what is to go. */
int apply_unlinks(struct apply *a);

/* A file that is changed in place, or through a copy that gets its name at the end. */
struct apply_edit {
	const char *name;
	int fd;
	uint64_t size; /* of what it had */
	bool open, in_place;
	char temp[SPOOL_TEMP_NAME];
};
int
apply_edit_begin(struct apply *a, const char *name, bool anew, struct apply_edit *e);
/* Gives it its name if rc is 0, else forgets it. Returns rc, or why it failed. */
int apply_edit_end(struct apply *a, struct apply_edit *e, uint32_t mode, int rc);

/* ---- apply_anew.c ---- */

int apply_write_anew(struct apply *a);
/* Did a crash come between the two renames of a rewrite? */
bool apply_cache_is_foreign(struct apply *a);

void apply_no_cache(struct index_record *r);
/* After an index that could not be read as a whole was replaced: messages that the new one does
 * not name are moved aside, or a later reconstruct would take them for new mail. */
int apply_strays(struct apply *a);

bool apply_keeps(const struct mbox_env *env, const uint8_t guid[SHA1_LEN]);

#endif
