/*
 * dump.h - one of Cyrus's files as text or JSON: index, header, cache, annotations, twoskip,
 * flat, quota. What it is says its name, else its first bytes. And a slot's journal, row by row.
 */
#ifndef FS_DUMP_H
#define FS_DUMP_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stdio.h>

/* What could be read is in out even when this fails: ERR_MANGLED, ERR_CHECKSUM, ERR_VERSION,
 * ERR_BUSY for damage, or the error of opening the file. */
int dump_file(const char *path, bool json, struct buf *out);
/* The same of bytes, which are taken for the file path; others beside it are read. */
int dump_bytes(const char *path, const struct buf *file, bool json, struct buf *out);
/* A journal may be long, so it is printed piece by piece; a server may be writing it meanwhile.
 * The rows that could be read are printed, and those that could not are named, even when this
 * fails: as above, and as journal_look.h says. */
bool dump_is_journal(const char *path);
int dump_journal(const char *path, bool json, FILE *to);

#endif
