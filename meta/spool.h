/*
 * spool.h - the backing tree, by openat: open, read, stage, place, sync.
 *
 * Layout of our own part, .twinspool/ in the spool's root: id, staging/ (bodies being received
 * and temporary files, tmp-*, which its owner sweeps), kept/ (bodies by hex GUID), made at
 * open, 0700. Paths are relative to the root, never contain "..", and no symlink is followed on
 * the way (openat2 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS). dir "" is the root itself.
 *
 * Every change to the tree is made by a function of this file, so a test can stop them all after
 * the n-th (spool_set_limit).
 *
 * Threads  any.
 * Errors   err.h, from errno; ERR_USAGE for a path that is absolute, too long or has "..".
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
/* Takes the tree over from a process that died: its temporary files go. Only for who owns the tree
 * alone: somebody else may be writing such a file. */
void spool_sweep(struct spool *sp);
void spool_close(struct spool *sp);
int spool_root_fd(const struct spool *sp);
/* From now on losing is told, with an O_PATH descriptor, of every file outside our own part
 * whose name is about to be removed or to mean another file. Before other threads. */
typedef void spool_losing_fn(void *arg, int fd);
void spool_watch(struct spool *sp, spool_losing_fn *losing, void *arg);

/* A descriptor on dir/name (name may be NULL: the folder itself), or ERR_NOTFOUND, ERR_ACCESS... */
int spool_file(struct spool *sp, const char *dir, const char *name, int flags,
	mode_t mode, int *fd_out);
/* The whole file, at most max bytes. */
int spool_read(struct spool *sp, const char *dir, const char *name, size_t max,
	struct buf *out, struct stat *st_out);
/* Attributes of dir/name (NULL: the folder), of a symlink itself. */
int
spool_stat(struct spool *sp, const char *dir, const char *name, struct stat *st_out);
/* The same of a name in an open folder. */
int spool_stat_at(int at, const char *name, struct stat *st_out);
/* spool_file of a name in an open folder, which is not made and no symlink. */
int spool_file_at(int at, const char *name, int flags, int *fd_out);
/* mkdir -p; new folders get mode and owner. */
int spool_mkdirs(struct spool *sp, const char *dir, mode_t mode, uid_t uid, gid_t gid);
/* Writes a new file beside and renames it over dir/name (never in place). */
int spool_replace(struct spool *sp, const char *dir, const char *name, const void *p,
	size_t n, mode_t mode, uid_t uid, gid_t gid);

/* Links from_dir/from_name to dir/name; a file there is replaced. */
int spool_link(struct spool *sp, const char *from_dir, const char *from_name,
	const char *dir, const char *name);
/* The same between open folders. */
int spool_link_at(
	struct spool *sp, int from, const char *from_name, int at, const char *name);
int spool_unlink(struct spool *sp, const char *dir, const char *name);
int spool_rmdir(struct spool *sp, const char *dir);
/* Moves a file or folder; what is at the new name is replaced if rename(2) can. */
int spool_move(struct spool *sp, const char *path, const char *to);
/* Two names change places, once: done again with the same id it finds that they have. One at a
 * time. ERR_NOTFOUND unless both are there. */
int spool_swap(struct spool *sp, const char *path, const char *other, uint64_t id);
/* Owner, mode (07777) and mtime (nanoseconds) of dir/name, each only if it differs; a symlink is
 * not followed. SPOOL_KEEP leaves one as it is. */
#define SPOOL_KEEP UINT64_MAX
int spool_attrs(struct spool *sp, const char *dir, const char *name, uint64_t uid,
	uint64_t gid, uint64_t mode, uint64_t mtime_ns);
/* The same of a name in an open folder. */
int spool_attrs_at(struct spool *sp, int at, const char *name, uint64_t uid,
	uint64_t gid, uint64_t mode, uint64_t mtime_ns);
/* Symlink, fifo, socket or device under a name that is replaced. */
int
spool_symlink(struct spool *sp, const char *target, const char *dir, const char *name);
int spool_mknod(struct spool *sp, mode_t mode, uint64_t rdev, const char *dir,
	const char *name);
/* Where a new file is to be, and what is to be known of it. The attributes may be SPOOL_KEEP. */
struct spool_place {
	int at; /* the folder's descriptor (O_PATH will do); negative: it is looked up */
	const char *dir, *name;
	uint64_t uid, gid, mode, mtime_ns;
	bool over; /* whatever has that name is replaced, else ERR_EXISTS */
};
/* A file of these bytes: there with its attributes, or not there at all. */
int spool_make(struct spool *sp, const struct spool_place *to, const void *p, size_t n);
/* All of p at that offset. */
int spool_write(struct spool *sp, int fd, const void *p, size_t n, uint64_t offset);

/* The first n bytes of one file to the beginning of another. */
int spool_copy(struct spool *sp, int from, int to, uint64_t n);

/* A new file on the spool's disk that has no place of its own yet: place renames it over dir/name
 * and closes nothing; drop forgets it. name is SPOOL_TEMP_NAME bytes. */
#define SPOOL_TEMP_NAME 40
int spool_temp(struct spool *sp, char *name_out, int *fd_out);
int
spool_temp_place(struct spool *sp, const char *temp, const char *dir, const char *name);
void spool_temp_drop(struct spool *sp, const char *temp);

/* Bodies being received: written to staging under a private name, verified, then known by GUID. */
struct spool_stage;
int spool_stage_open(struct spool *sp, const uint8_t guid[SHA1_LEN], uint64_t size,
	struct spool_stage **out);
int spool_stage_write(struct spool_stage *st, const void *p, size_t n);
/* Checks size and SHA-1, then renames to staging/<guid>. ERR_BODY. Always frees st. With sync
 * set the bytes are on disk first. */
int spool_stage_done(struct spool_stage *st, bool sync);
/* A staged body and its name are on disk when this returns. ERR_NOTFOUND: it is not staged. */
int spool_stage_sync(struct spool *sp, const uint8_t guid[SHA1_LEN]);
void spool_stage_abort(struct spool_stage *st);
bool spool_staged(struct spool *sp, const uint8_t guid[SHA1_LEN]);
/* Drops all of them but those that keep says were synced: after a power cut they may be torn. */
void spool_stage_forget(struct spool *sp,
	bool (*keep)(void *arg, const uint8_t guid[SHA1_LEN]), void *arg);
/* staging/<guid> to its place, or ERR_NOTFOUND. */
int spool_stage_take(
	struct spool *sp, const uint8_t guid[SHA1_LEN], const struct spool_place *to);
/* Forgets it. */
void spool_stage_drop(struct spool *sp, const uint8_t guid[SHA1_LEN]);

/* kept/: links dir/name there (keep), opens by GUID, drops. */
int spool_keep(struct spool *sp, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name);
int spool_kept_open(struct spool *sp, const uint8_t guid[SHA1_LEN], int *fd_out);
/* Links kept/<guid> to dir/name, or ERR_NOTFOUND. */
int spool_kept_link(struct spool *sp, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name);
void spool_kept_drop(struct spool *sp, const uint8_t guid[SHA1_LEN]);
/* When it was linked there or, later, another link of it came or went; wall clock, ns. */
int spool_kept_since(
	struct spool *sp, const uint8_t guid[SHA1_LEN], uint64_t *since_ns_out);
/* Everything in kept/, for the start. */
int spool_kept_walk(struct spool *sp,
	void (*fn)(void *arg, const uint8_t guid[SHA1_LEN]), void *arg);

/* Every directory below the root that holds a cyrus.header or cyrus.index (mbox true, name NULL),
 * and every other file and folder (mbox false; a folder comes before what is in it): only for
 * the adoption of a spool that was never mounted before. Skips stage./, sync./, .twinspool/,
 * *.NEW, and in a mailbox what is the mailbox's own. Stops when fn returns non-zero and returns
 * that. */
typedef int spool_walk_fn(
	void *arg, const char *dir, const char *name, bool mbox, const struct stat *st);
int spool_walk(struct spool *sp, spool_walk_fn *fn, void *arg);
/* A name that a mailbox folder has for itself: <uid>., cyrus.index, cyrus.cache.NEW... */
bool spool_name_is_mbox(const char *name);
/* Is there a cyrus.header or cyrus.index in it? */
bool spool_dir_is_mbox(struct spool *sp, const char *dir);

/* Puts everything written so far on disk (syncfs). Once that has failed it fails: the kernel says so once
 * and forgets, and a later one that is good knows nothing of what the first has lost. */
int spool_sync(struct spool *sp);

/* For tests: after n more changes to the tree each further one fails with ERR_IO and does
 * nothing, as if the process had died there. Negative: no limit. */
void spool_set_limit(struct spool *sp, long n);
/* Changes made since the last call of it. */
long spool_changes(struct spool *sp);

#endif
