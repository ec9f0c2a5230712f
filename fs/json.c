/*
 * json.c - how it works: the last byte says whether something stands in front already.
 */
#include "fs/json.h"
#include "fs/escape.h"

#include <inttypes.h>
#include <string.h>

static void
put_name(struct buf *out, const char *name)
{
	if (out->len > 0 && memchr("{[", out->data[out->len - 1], 2) == NULL)
		buf_printf(out, ",");
	if (name != NULL) {
		escape_json(out, name);
		buf_printf(out, ":");
	}
}

void
json_object(struct buf *out, const char *name)
{
	put_name(out, name);
	buf_printf(out, "{");
}

void
json_list(struct buf *out, const char *name)
{
	put_name(out, name);
	buf_printf(out, "[");
}

void
json_end_object(struct buf *out)
{
	buf_printf(out, "}");
}

void
json_end_list(struct buf *out)
{
	buf_printf(out, "]");
}

void
json_number(struct buf *out, const char *name, uint64_t v)
{
	put_name(out, name);
	buf_printf(out, "%" PRIu64, v);
}

void
json_text(struct buf *out, const char *name, const char *v)
{
	put_name(out, name);
	escape_json(out, v);
}

void
json_bool(struct buf *out, const char *name, bool v)
{
	put_name(out, name);
	buf_printf(out, v ? "true" : "false");
}

void
json_null(struct buf *out, const char *name)
{
	put_name(out, name);
	buf_printf(out, "null");
}
