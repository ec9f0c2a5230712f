/*
 * spool.h - the backing tree, by openat: open, read, stage, place, sync.
 *
 * Layout of our own part, .twinspool/ in the spool's root: id, staging/, kept/ (bodies by hex
 * GUID), made at open, 0700. Paths are relative to the root, never contain "..", and no symlink
 * is followed on the way (openat2 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS).
 *
 * Threads  any.
 */
#ifndef META_SPOOL_H
#define META_SPOOL_H

#include "meta/base/buf.h"
#include "meta/base/hash.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct spool;

/* Opens the tree and makes the folders of our own. The identity file is the caller's matter. */
int spool_open(const char *root, struct spool **out);
void spool_close(struct spool *sp);
int spool_root_fd(const struct spool *sp);

/* A descriptor on dir/name (name may be NULL: the folder itself), or ERR_NOTFOUND, ERR_ACCESS... */
int spool_file(struct spool *sp, const char *dir, const char *name, int flags,
	mode_t mode, int *fd_out);
/* The whole file, at most max bytes. */
int spool_read(struct spool *sp, const char *dir, const char *name, size_t max,
	struct buf *out, struct stat *st_out);
/* mkdir -p; new folders get mode and owner. */
int spool_mkdirs(struct spool *sp, const char *dir, mode_t mode, uid_t uid, gid_t gid);
/* Writes a new file beside and renames it over dir/name (never in place). */
int spool_replace(struct spool *sp, const char *dir, const char *name, const void *p,
	size_t n, mode_t mode, uid_t uid, gid_t gid);

/* Bodies being received: written to staging under a private name, verified, then known by GUID. */
struct spool_stage;
int spool_stage_open(struct spool *sp, const uint8_t guid[SHA1_LEN], uint64_t size,
	struct spool_stage **out);
int spool_stage_write(struct spool_stage *st, const void *p, size_t n);
/* Checks size and SHA-1, then renames to staging/<guid>. ERR_BODY. Always frees st. With sync
 * set the bytes are on disk first. */
int spool_stage_done(struct spool_stage *st, bool sync);
void spool_stage_abort(struct spool_stage *st);
bool spool_staged(struct spool *sp, const uint8_t guid[SHA1_LEN]);
/* staging/<guid> -> dir/name, or ERR_NOTFOUND. */
int spool_stage_take(struct spool *sp, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name);

/* kept/: links dir/name there (keep), opens by GUID, drops. */
int spool_keep(struct spool *sp, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name);
int spool_kept_open(struct spool *sp, const uint8_t guid[SHA1_LEN], int *fd_out);
void spool_kept_drop(struct spool *sp, const uint8_t guid[SHA1_LEN]);
/* Everything in kept/, for the start. */
int spool_kept_walk(struct spool *sp,
	void (*fn)(void *arg, const uint8_t guid[SHA1_LEN]), void *arg);

/* Every directory below the root that holds a cyrus.header or cyrus.index, and every other file
 * and folder (mbox false): only for the adoption of a spool that was never mounted before.
 * Skips stage./, sync./, .twinspool/ and *.NEW. */
typedef int spool_walk_fn(
	void *arg, const char *dir, const char *name, bool mbox, const struct stat *st);
int spool_walk(struct spool *sp, spool_walk_fn *fn, void *arg);

/* Puts everything written so far on disk (syncfs). */
int spool_sync(struct spool *sp);
uint64_t spool_free_bytes(struct spool *sp);

#endif
