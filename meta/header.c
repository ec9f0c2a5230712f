/*
 * How it works: after 115 bytes of magic comes either one line in Cyrus's list notation, from
 * 3.6 on, or three lines of fields, before. A small recursive reader takes the list notation
 *
 *   value = string | "(" [value *(SP value)] ")" | "%(" [key SP value *(SP key SP value)] ")"
 *   string = atom | NIL | '"' quoted '"' | "{" octets "}" CR LF octets
 *
 * and hands each key of the outermost list to a row of the table below; what a key does not
 * name is read and dropped, so newer keys do no harm. Writing chooses atom, quotes or octets
 * by Cyrus's rules. Any bytes give a header or ERR_MANGLED.
 */
#include "meta/header.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 8, MAX_ACL = 10000, MAX_QUOTED = 1024 };

/* The same in every version, 2.2 to today. */
static const char magic[] =
	"\xa1\x02\x8b\x0d"
	"Cyrus mailbox header\n"
	"\"The best thing about this system was that it had lots of goals.\"\n"
	"\t--Jim Morris on Andrew\n";
enum { MAGIC_LEN = sizeof(magic) - 1 };

struct in {
	const char *p, *end;
};

static bool
eat(struct in *in, const char *text)
{
	size_t n = strlen(text);

	if ((size_t)(in->end - in->p) < n || memcmp(in->p, text, n) != 0)
		return false;
	in->p += n;
	return true;
}

/* A copy of n bytes; a NUL inside is no string. */
static int
take(const char *p, size_t n, char **out)
{
	if (memchr(p, '\0', n) != NULL)
		return ERR_MANGLED;
	*out = strndup(p, n);
	return *out ? 0 : ERR_NOMEM;
}

static int
read_quoted(struct in *in, char **out)
{
	const char *from = in->p, *q = from;
	size_t n = 0;

	for (; q < in->end && *q != '"'; q++) {
		if (*q == '\n' || *q == '\0' || (*q == '\\' && ++q == in->end))
			return ERR_MANGLED;
		n++;
	}
	if (q >= in->end)
		return ERR_MANGLED;
	char *s = malloc(n + 1);
	if (s == NULL)
		return ERR_NOMEM;
	n = 0;
	for (; from < q; from++) {
		if (*from == '\\')
			from++;
		s[n++] = *from;
	}
	s[n] = '\0';
	in->p = q + 1;
	*out = s;
	if (strlen(s) != n) {
		free(s);
		*out = NULL;
		return ERR_MANGLED;
	}
	return 0;
}

static int
read_octets(struct in *in, char **out)
{
	size_t n = 0, digits = 0;

	while (in->p < in->end && *in->p >= '0' && *in->p <= '9' && digits++ < 8)
		n = n * 10 + (size_t)(*in->p++ - '0');
	eat(in, "+");
	if (digits == 0 || !eat(in, "}\r\n") || n > (size_t)(in->end - in->p))
		return ERR_MANGLED;
	int rc = take(in->p, n, out);
	in->p += n;
	return rc;
}

/* One string; NIL gives NULL. */
static int
read_string(struct in *in, char **out)
{
	const char *from;

	*out = NULL;
	if (eat(in, "\""))
		return read_quoted(in, out);
	if (eat(in, "{"))
		return read_octets(in, out);
	for (from = in->p; in->p < in->end; in->p++)
		if (strchr(" ()\r\n\"", *in->p) != NULL) /* NUL ends it, too */
			break;
	if (in->p == from)
		return ERR_MANGLED;
	if (in->p - from == 3 && memcmp(from, "NIL", 3) == 0)
		return 0;
	return take(from, (size_t)(in->p - from), out);
}

/* Reads the elements of a list up to its ")" through one. */
typedef int element_fn(struct in *in, struct header *h, int depth);

static int
read_list(struct in *in, struct header *h, int depth, element_fn *one)
{
	if (depth > MAX_DEPTH)
		return ERR_MANGLED;
	for (bool first = true; !eat(in, ")"); first = false) {
		if (!first && !eat(in, " "))
			return ERR_MANGLED;
		int rc = one(in, h, depth);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int skip_value(struct in *in, struct header *h, int depth);

static int
skip_pair(struct in *in, struct header *h, int depth)
{
	char *key;
	int rc = read_string(in, &key);

	free(key);
	if (rc == 0 && !eat(in, " "))
		rc = ERR_MANGLED;
	return rc ? rc : skip_value(in, h, depth);
}

static int
skip_value(struct in *in, struct header *h, int depth)
{
	char *s;

	if (eat(in, "%("))
		return read_list(in, h, depth + 1, skip_pair);
	if (eat(in, "("))
		return read_list(in, h, depth + 1, skip_value);
	int rc = read_string(in, &s);
	free(s);
	return rc;
}

/* Takes id and rights, which are the header's from then on even if this fails. */
static int
add_acl(struct header *h, char *id, char *rights)
{
	struct header_acl *grown = NULL;

	if (id != NULL && rights != NULL && h->n_acl < MAX_ACL)
		grown = realloc(h->acl, (h->n_acl + 1) * sizeof(*h->acl));
	if (grown == NULL) {
		free(id);
		free(rights);
		return id && rights && h->n_acl < MAX_ACL ? ERR_NOMEM : ERR_MANGLED;
	}
	h->acl = grown;
	h->acl[h->n_acl++] = (struct header_acl){ id, rights };
	return 0;
}

static int
read_acl_pair(struct in *in, struct header *h, int depth)
{
	char *id = NULL, *rights = NULL;

	(void)depth;
	int rc = read_string(in, &id);
	if (rc == 0)
		rc = eat(in, " ") ? read_string(in, &rights) : ERR_MANGLED;
	if (rc == 0)
		return add_acl(h, id, rights);
	free(id);
	return rc;
}

/* Position in the list is the flag's number, so NIL leaves a hole. */
static int
read_flags(struct in *in, struct header *h)
{
	size_t n = 0;

	for (; !eat(in, ")"); n++) {
		if (n == HEADER_MAX_FLAGS || h->flags[n] != NULL ||
			(n > 0 && !eat(in, " ")))
			return ERR_MANGLED;
		int rc = read_string(in, &h->flags[n]);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int
read_key(struct in *in, struct header *h, int depth)
{
	const struct {
		const char *key;
		char **value;
	} rows[] = {
		{ "T", &h->type },
		{ "N", &h->name },
		{ "I", &h->uniqueid },
		{ "Q", &h->quotaroot },
		{ "J", &h->jmapid },
		{ "P", &h->partition },
		{ "V", &h->uidvalidity },
	};
	char *key = NULL, *value;
	int rc = read_string(in, &key);

	if (rc != 0)
		goto out;
	rc = ERR_MANGLED;
	if (key == NULL || !eat(in, " "))
		goto out;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (strcmp(key, rows[i].key) != 0)
			continue;
		rc = read_string(in, &value);
		if (rc == 0) {
			free(*rows[i].value);
			*rows[i].value = value;
		}
		goto out;
	}
	if (strcmp(key, "A") == 0)
		rc = eat(in, "%(") ? read_list(in, h, depth + 1, read_acl_pair)
				   : ERR_MANGLED;
	else if (strcmp(key, "U") == 0)
		rc = eat(in, "(") ? read_flags(in, h) : ERR_MANGLED;
	else
		rc = skip_value(in, h, depth);
out:
	free(key);
	return rc;
}

/* The bytes up to any of stops, which is left to be read. */
static int
read_until(struct in *in, const char *stops, char **out)
{
	const char *from = in->p;

	while (in->p < in->end && strchr(stops, *in->p) == NULL)
		in->p++;
	return take(from, (size_t)(in->p - from), out);
}

static int
read_old(struct in *in, struct header *h)
{
	int rc = read_until(in, "\t\n", &h->quotaroot);

	if (rc == 0 && eat(in, "\t"))
		rc = read_until(in, "\t\n", &h->uniqueid);
	if (rc == 0 && !eat(in, "\n"))
		rc = ERR_MANGLED;
	for (size_t n = 0; rc == 0 && !eat(in, "\n"); n++) {
		if (n == HEADER_MAX_FLAGS)
			return ERR_MANGLED;
		rc = read_until(in, " \n", &h->flags[n]);
		if (rc == 0 && h->flags[n][0] == '\0') {
			free(h->flags[n]);
			h->flags[n] = NULL;
		}
		if (rc == 0 && !eat(in, " ") && in->p == in->end)
			rc = ERR_MANGLED;
	}
	while (rc == 0 && !eat(in, "\n")) {
		char *id = NULL, *rights = NULL;
		rc = read_until(in, "\t\n", &id);
		if (rc == 0)
			rc = eat(in, "\t") ? read_until(in, "\t\n", &rights)
					   : ERR_MANGLED;
		if (rc != 0) {
			free(id);
			return rc;
		}
		rc = add_acl(h, id, rights);
		if (rc == 0 && !eat(in, "\t"))
			rc = ERR_MANGLED;
	}
	return rc;
}

int
header_decode(const void *p, size_t n, struct header *out)
{
	struct in in = { p, (const char *)p + n };
	int rc = ERR_MANGLED;

	memset(out, 0, sizeof(*out));
	if (n > HEADER_MAX_FILE || n < MAGIC_LEN || memcmp(p, magic, MAGIC_LEN) != 0)
		return rc;
	in.p += MAGIC_LEN;
	out->old_form = in.p == in.end || *in.p != '%';
	if (out->old_form) {
		rc = read_old(&in, out);
	} else if (eat(&in, "%(")) {
		rc = read_list(&in, out, 0, read_key);
		if (rc == 0 && !eat(&in, "\n"))
			rc = ERR_MANGLED;
	}
	if (rc == 0 && in.p != in.end)
		rc = ERR_MANGLED;
	if (rc == 0 && out->uniqueid == NULL && (out->uniqueid = strdup("")) == NULL)
		rc = ERR_NOMEM;
	if (out->quotaroot != NULL && out->quotaroot[0] == '\0') {
		free(out->quotaroot);
		out->quotaroot = NULL;
	}
	if (rc != 0)
		header_fini(out);
	return rc;
}

int
header_decode_entry(const void *p, size_t n, struct header *out)
{
	struct in in = { p, (const char *)p + n };
	int rc = ERR_MANGLED;

	memset(out, 0, sizeof(*out));
	if (eat(&in, "%("))
		rc = read_list(&in, out, 0, read_key);
	if (rc == 0 && in.p != in.end)
		rc = ERR_MANGLED;
	if (rc != 0)
		header_fini(out);
	return rc;
}

void
header_fini(struct header *h)
{
	free(h->type);
	free(h->name);
	free(h->uniqueid);
	free(h->quotaroot);
	free(h->jmapid);
	free(h->partition);
	free(h->uidvalidity);
	for (size_t i = 0; i < HEADER_MAX_FLAGS; i++)
		free(h->flags[i]);
	for (size_t i = 0; i < h->n_acl; i++) {
		free(h->acl[i].id);
		free(h->acl[i].rights);
	}
	free(h->acl);
	memset(h, 0, sizeof(*h));
}

bool
header_is_atom(const char *s)
{
	size_t n = 0;

	for (; s[n] != '\0'; n++) {
		unsigned char c = (unsigned char)s[n];
		if (c <= 0x20 || c >= 0x7f || strchr("{()\"%*\\", c) != NULL)
			return false;
	}
	return n > 0 && n < 1024;
}

static void
put_string(struct buf *out, const char *s)
{
	bool quotable = true;

	if (s == NULL) {
		buf_printf(out, "NIL");
		return;
	}
	if (header_is_atom(s) && strcmp(s, "NIL") != 0) {
		buf_put(out, s, strlen(s));
		return;
	}
	for (const char *q = s; *q != '\0'; q++)
		if (*q & 0x80 || strchr("\r\n\"%\\", *q) != NULL)
			quotable = false;
	if (quotable && strlen(s) < MAX_QUOTED)
		buf_printf(out, "\"%s\"", s);
	else
		buf_printf(out, "{%zu}\r\n%s", strlen(s), s);
}

static size_t
count_flags(const struct header *h)
{
	size_t n = HEADER_MAX_FLAGS;

	while (n > 0 && h->flags[n - 1] == NULL)
		n--;
	return n;
}

static void
put_key(struct buf *out, const char *key, const char *value)
{
	buf_put(out, key, strlen(key));
	put_string(out, value);
}

static void
encode_new(const struct header *h, struct buf *out)
{
	size_t n = count_flags(h);

	put_key(out, "%(T ", h->type);
	put_key(out, " N ", h->name);
	put_key(out, " I ", h->uniqueid);
	if (h->jmapid != NULL)
		put_key(out, " J ", h->jmapid);
	if (h->quotaroot != NULL)
		put_key(out, " Q ", h->quotaroot);
	buf_printf(out, " A %%(");
	for (size_t i = 0; i < h->n_acl; i++) {
		put_key(out, i ? " " : "", h->acl[i].id);
		put_key(out, " ", h->acl[i].rights);
	}
	buf_printf(out, ")");
	for (size_t i = 0; i < n; i++)
		put_key(out, i ? " " : " U (", h->flags[i]);
	buf_printf(out, n ? "))\n" : ")\n");
}

static void
encode_old(const struct header *h, struct buf *out)
{
	buf_printf(out, "%s", h->quotaroot ? h->quotaroot : "");
	if (h->uniqueid != NULL && h->uniqueid[0] != '\0')
		buf_printf(out, "\t%s", h->uniqueid);
	buf_printf(out, "\n");
	/* Cyrus leaves holes out, which renumbers the flags behind them; an empty name is what
	 * its reader takes for a hole. */
	for (size_t i = 0, n = count_flags(h); i < n; i++)
		buf_printf(out, "%s ", h->flags[i] ? h->flags[i] : "");
	buf_printf(out, "\n");
	for (size_t i = 0; i < h->n_acl; i++)
		buf_printf(out, "%s\t%s\t", h->acl[i].id, h->acl[i].rights);
	buf_printf(out, "\n");
}

int
header_encode(const struct header *h, struct buf *out)
{
	buf_put(out, magic, MAGIC_LEN);
	if (h->old_form)
		encode_old(h, out);
	else
		encode_new(h, out);
	return buf_ok(out);
}

/* Copies one part of a name, up to its end or to sep; the caret stands for a dot. */
static void
copy_part(const char *from, char sep, char *out, size_t n)
{
	size_t i = 0;

	for (; from[i] != '\0' && from[i] != sep && i + 1 < n; i++)
		out[i] = from[i] == '^' ? '.' : from[i];
	out[i] = '\0';
}

/* The part behind a first or later part "user", or NULL. */
static const char *
behind_user(const char *name, char sep)
{
	char part[] = { sep, 'u', 's', 'e', 'r', sep, '\0' };

	if (strncmp(name, part + 1, 5) == 0)
		return name + 5;
	name = strstr(name, part);
	return name != NULL ? name + 6 : NULL;
}

void
header_owner(const struct header *h, const char *dir, char *out, size_t n)
{
	const char *at = behind_user(dir, '/');
	const char *name = h != NULL ? h->name : NULL;
	char domain[256] = "";

	out[0] = '\0';
	if (at != NULL) {
		copy_part(at, '/', out, n);
		if (strncmp(dir, "domain/", 7) == 0) {
			dir += dir[7] != '\0' && dir[8] == '/' ? 9 : 7;
			copy_part(dir, '/', domain, sizeof(domain));
		}
	} else if (name != NULL) {
		const char *bang = strchr(name, '!');
		if (bang != NULL) {
			copy_part(name, '!', domain, sizeof(domain));
			name = bang + 1;
		}
		if ((at = behind_user(name, '.')) != NULL)
			copy_part(at, '.', out, n);
	}
	size_t len = strlen(out);
	if (domain[0] != '\0' && len > 0)
		snprintf(out + len, n - len, "@%s", domain);
}
