/*
 * emit.h - things with fields, as text for eyes or as JSON for programs.
 *
 * Text is one line per thing, "kind name=value name=value"; a tall thing has a line per field.
 * JSON is one array of objects, the kind in the field "kind". Bytes that are no plain ASCII are
 * escaped in both, so any bytes may be given.
 */
#ifndef FS_EMIT_H
#define FS_EMIT_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

struct emit {
	struct buf *out;
	bool json, tall, first_thing, first_item;
};

void emit_begin(struct emit *e, struct buf *out, bool json);
void emit_end(struct emit *e);

void emit_thing(struct emit *e, const char *kind, bool tall);
void emit_close(struct emit *e);

void emit_number(struct emit *e, const char *name, uint64_t v);
void emit_hex(struct emit *e, const char *name, uint64_t v, int digits);
/* Nanoseconds since the epoch as UTC; 0 is "0". */
void emit_time(struct emit *e, const char *name, uint64_t ns);
void emit_bytes(struct emit *e, const char *name, const void *p, size_t n);
/* NULL is nothing: the field is left out. */
void emit_text(struct emit *e, const char *name, const char *s);
/* Some texts in a row: in JSON a list, in text a line each. The last of a thing's fields. */
void emit_list(struct emit *e, const char *name);
void emit_item(struct emit *e, const void *p, size_t n);
void emit_list_end(struct emit *e);

#endif
