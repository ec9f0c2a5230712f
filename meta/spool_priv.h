/*
 * spool_priv.h - what spool.c, spool_new.c and spool_body.c share. For these only.
 */
#ifndef META_SPOOL_PRIV_H
#define META_SPOOL_PRIV_H

#include "meta/spool.h"

#include <stdatomic.h>

struct spool {
	int root;
	int staging, kept; /* descriptors of our own folders */
	atomic_ulong next_temp;
	atomic_long limit, changes;
	/* At least as many bodies as lie in staging: while there are none, nobody looks. */
	atomic_long staged;
	atomic_bool no_tmpfile; /* the file system has no O_TMPFILE */
	atomic_int lost; /* how a sync of all failed; 0: none did */
	spool_losing_fn *losing;
	void *losing_arg;
};

/* Before every change to the tree: may it be made? */
int spool_change(struct spool *sp);
/* Before at/name is removed or comes to mean another file. */
void spool_tell_losing(struct spool *sp, int at, const char *name);
/* openat2 that stays below at and follows no symlink. */
int spool_open_under(int at, const char *path, int flags, mode_t mode, int *fd_out);
/* A descriptor (O_PATH) of the folder dir, where name must be one component. */
int spool_dir_of(struct spool *sp, const char *dir, const char *name, int *fd_out);
/* One component, neither "." nor "..". */
bool spool_name_ok(const char *name);
/* from_at/from to its place, with what is to be known of it. */
int spool_rename_to(
	struct spool *sp, int from_at, const char *from, const struct spool_place *to);

#endif
