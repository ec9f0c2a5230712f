/*
 * emit.c - things with fields, as text or as JSON: which of the two, only this file knows.
 */
#include "fs/emit.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define NS_PER_SECOND 1000000000u

void
emit_begin(struct emit *e, struct buf *out, bool json)
{
	*e = (struct emit){ .out = out, .json = json, .first_thing = true };
	if (json)
		buf_printf(out, "[");
}

void
emit_end(struct emit *e)
{
	if (e->json)
		buf_printf(e->out, "%s]\n", e->first_thing ? "" : "\n");
}

static void
put_escaped(struct emit *e, const void *p, size_t n)
{
	const uint8_t *at = p;

	for (size_t i = 0; i < n; i++)
		if (at[i] == '"' || at[i] == '\\')
			buf_printf(e->out, "\\%c", at[i]);
		else if (at[i] >= ' ' && at[i] <= '~')
			buf_put(e->out, &at[i], 1);
		else
			buf_printf(e->out, e->json ? "\\u%04x" : "\\x%02x", at[i]);
}

void
emit_thing(struct emit *e, const char *kind, bool tall)
{
	if (e->json)
		buf_printf(e->out, "%s\n{\"kind\":\"%s\"", e->first_thing ? "" : ",",
			kind);
	else
		buf_printf(e->out, "%s", kind);
	e->first_thing = false;
	e->tall = tall && !e->json;
}

void
emit_close(struct emit *e)
{
	buf_printf(e->out, e->json ? "}" : "\n");
}

static void
put_name(struct emit *e, const char *name)
{
	if (e->json) {
		buf_printf(e->out, ",\"");
		put_escaped(e, name, strlen(name));
		buf_printf(e->out, "\":");
	} else if (e->tall) {
		buf_printf(e->out, "\n  %s: ", name);
	} else {
		buf_printf(e->out, " %s=", name);
	}
}

void
emit_number(struct emit *e, const char *name, uint64_t v)
{
	put_name(e, name);
	buf_printf(e->out, "%" PRIu64, v);
}

void
emit_hex(struct emit *e, const char *name, uint64_t v, int digits)
{
	const char *quote = e->json ? "\"" : "";

	put_name(e, name);
	buf_printf(e->out, "%s%0*" PRIx64 "%s", quote, digits, v, quote);
}

void
emit_time(struct emit *e, const char *name, uint64_t ns)
{
	const char *quote = e->json ? "\"" : "";
	time_t seconds = (time_t)(ns / NS_PER_SECOND);
	char text[40] = "0";
	struct tm tm;

	put_name(e, name);
	if (ns != 0 && gmtime_r(&seconds, &tm) != NULL)
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	buf_printf(e->out, "%s%s", quote, text);
	if (ns % NS_PER_SECOND != 0)
		buf_printf(e->out, ".%09u", (unsigned)(ns % NS_PER_SECOND));
	buf_printf(e->out, "%s%s", ns ? "Z" : "", quote);
}

void
emit_bytes(struct emit *e, const char *name, const void *p, size_t n)
{
	put_name(e, name);
	buf_printf(e->out, "\"");
	put_escaped(e, p, n);
	buf_printf(e->out, "\"");
}

void
emit_text(struct emit *e, const char *name, const char *s)
{
	if (s != NULL)
		emit_bytes(e, name, s, strlen(s));
}

void
emit_list(struct emit *e, const char *name)
{
	e->first_item = true;
	if (!e->json)
		return;
	put_name(e, name);
	buf_printf(e->out, "[");
}

void
emit_item(struct emit *e, const void *p, size_t n)
{
	const char *quote = e->json ? "\"" : "";

	buf_printf(e->out, "%s%s", !e->json ? "\n  " : e->first_item ? "" : ",", quote);
	put_escaped(e, p, n);
	buf_printf(e->out, "%s", quote);
	e->first_item = false;
}

void
emit_list_end(struct emit *e)
{
	if (e->json)
		buf_printf(e->out, "]");
}
