/*
 * escape.h - any text as a string of JSON, or as the value of a Prometheus label, in its quotes. Bytes
 * that are no UTF-8 become U+FFFD.
 *
 * Threads: any.
 */
#ifndef FS_ESCAPE_H
#define FS_ESCAPE_H

#include "meta/base/buf.h"

void escape_json(struct buf *out, const char *text);
void escape_label(struct buf *out, const char *text);

#endif
