/*
 * ixfile.h - an open cyrus.index, read record by record or loaded whole.
 *
 * Not loaded, each record costs one pread, so a change in a large mailbox costs what it touches.
 * Loaded, all reads are of one moment, and the file may change underneath.
 *
 * Ownership  ixfile_close gives back what ixfile_open took; a struct of zeros may be closed.
 * Errors     ERR_NOTFOUND no such file; ERR_BUSY empty; ERR_MANGLED too short, ERR_VERSION,
 *            ERR_CHECKSUM as index.h; ERR_IO.
 */
#ifndef META_IXFILE_H
#define META_IXFILE_H

#include "meta/index.h"
#include "meta/spool.h"

struct ixfile {
	int fd; /* valid if open */
	bool open;
	struct stat st;
	struct index_header h;
	struct buf mem; /* the whole file, if loaded */
	bool loaded;
};

int ixfile_open(struct spool *sp, const char *dir, bool load, struct ixfile *out);
/* The same file as it is by now; f is not a loaded one. */
int ixfile_again(struct ixfile *f);
void ixfile_close(struct ixfile *f);
/* Record i (0-based); ERR_NOTFOUND beyond the header's count. */
int ixfile_record(const struct ixfile *f, uint32_t i, struct index_record *out);
/* Its position, or ERR_NOTFOUND and the position where that UID belongs. */
int ixfile_find(const struct ixfile *f, uint32_t uid, uint32_t *i_out);

#endif
