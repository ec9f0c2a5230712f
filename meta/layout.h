/*
 * layout.h - where each field of cyrus.index lies, for every minor version (F2).
 *
 * One table for the header and one for the records: a row says from which to which version a
 * field has this place. The walkers below read, write and print by these rows, so a version is
 * nowhere else than here. Only meta/index.c and fsck_index.c include this.
 *
 * Threads  any; the tables do not change.
 */
#ifndef META_LAYOUT_H
#define META_LAYOUT_H

#include "meta/index.h"

#include <stdbool.h>

enum layout_kind {
	LAYOUT_UINT, /* big-endian number */
	LAYOUT_TIME, /* 4 bytes: seconds; 8 bytes: nanoseconds. In memory nanoseconds */
	LAYOUT_HIGH, /* bits from 32 on of a number whose low part is another row */
	LAYOUT_COPY, /* written like UINT, not read: repeats another field */
	LAYOUT_BYTES
};

struct layout_field {
	const char *name;
	uint8_t from, to; /* minor versions, both included */
	uint8_t kind;
	uint8_t off, size; /* in the file */
	uint8_t width; /* in memory */
	uint16_t at; /* in struct index_header or index_record */
};

struct layout {
	uint32_t minor;
	uint16_t header_size, record_size;
	bool crc; /* the last four bytes of header and record are a CRC */
};

extern const struct layout_field layout_header[], layout_record[];

/* The sizes of a version, or NULL if it is unknown. */
const struct layout *layout_of(uint32_t minor);

/* Fields that the version lacks become 0. */
void layout_read(
	const struct layout_field *table, uint32_t minor, const uint8_t *p, void *out);
/* p was zeroed. ERR_LIMIT if a number does not fit its place in this version. */
int layout_write(
	const struct layout_field *table, uint32_t minor, const void *in, uint8_t *p);
void layout_print(const struct layout_field *table, uint32_t minor, const void *in,
	index_field_fn *fn, void *arg);

#endif
