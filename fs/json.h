/*
 * json.h - one JSON value on one line, written from left to right.
 *
 * name is that of a member, NULL for an item of a list or the value as a whole. A comma goes in front
 * wherever one belongs: not behind what has just been opened. Threads: any, each with its own buffer.
 */
#ifndef FS_JSON_H
#define FS_JSON_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

void json_object(struct buf *out, const char *name);
void json_list(struct buf *out, const char *name);
void json_end_object(struct buf *out);
void json_end_list(struct buf *out);
void json_number(struct buf *out, const char *name, uint64_t v);
void json_text(struct buf *out, const char *name, const char *v);
void json_bool(struct buf *out, const char *name, bool v);
void json_null(struct buf *out, const char *name);

#endif
