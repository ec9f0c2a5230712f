/*
 * maker.h - a batch that is being made of one mailbox's files. For delta.c and repair.c.
 *
 * Everything that a batch states is copied into it. After an error the batch is given up by
 * maker_finish.
 */
#ifndef META_MAKER_H
#define META_MAKER_H

#include "meta/scan.h"

struct maker {
	struct spool *sp;
	const char *dir;
	const char *from_dir;
	mbox_ref_fn *ref;
	void *ref_arg;
	struct batch *out;
	size_t limit, records; /* that may be named, 0: any number; that are */
	struct mbox_fault *fault;
	int at; /* the folder, -1 until it is needed */
	int cache_fd; /* -1: not open yet, -2: there is none */
	bool no_cache_crc; /* index version 10: a cache record proves itself by its form */
	size_t cache_bytes;
	bool cache_bad; /* that was said */
};

int maker_begin(struct maker *m, const struct mbox_delta *d, struct spool *sp,
	struct batch *out, struct mbox_fault *fault);
/* Closes what was opened; gives the batch its uniqueid, or frees it if rc is not 0. */
int maker_finish(struct maker *m, const struct mbox_state *state, int rc);

/* A new message: its body was found in place. ERR_BODY. */
int maker_append(struct maker *m, const struct index_record *r);
/* Fields of a record; an expunge names the GUID by itself. */
int maker_update(struct maker *m, const struct index_record *r, uint64_t mask);
/* guid NULL: whatever is there. */
int maker_purge(struct maker *m, uint32_t uid, const uint8_t *guid);
int maker_names(struct maker *m, const struct buf *file);
int maker_header(struct maker *m, const struct index_header *h, uint64_t mask);
int maker_owner(struct maker *m, const struct change_owner *o);
/* All annotations of one message. */
int maker_annots(struct maker *m, uint32_t uid, const struct db_annot *list, size_t n);
/* All annotations of the mailbox, and that these are all. */
int maker_all_annots(struct maker *m, const struct scan_annots *annots);

#endif
