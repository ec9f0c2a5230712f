/*
 * dump.h - one of Cyrus's files as text or JSON: index, header, cache, annotations, twoskip,
 * flat, quota. What it is says its name, else its first bytes.
 */
#ifndef FS_DUMP_H
#define FS_DUMP_H

#include "meta/base/buf.h"

#include <stdbool.h>

/* What could be read is in out even when this fails: ERR_MANGLED, ERR_CHECKSUM, ERR_VERSION,
 * ERR_BUSY for damage, or the error of opening the file. */
int dump_file(const char *path, bool json, struct buf *out);

#endif
