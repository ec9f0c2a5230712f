/*
 * rec.c - the walkers over field tables.
 *
 * Each walker is one loop over the rows with one switch on the kind; lists recurse with the
 * item's table. Tables are constants of this program and nest two deep at most, so recursion is
 * bounded by them and not by the input.
 *
 * A list's memory is bounded by its input: every item takes at least item_min bytes of it, so a
 * count that the bytes left cannot hold is refused before anything is allocated.
 */
#include "meta/base/rec.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"

#include <inttypes.h>
#include <stdlib.h>

struct rec_chunk {
	struct rec_chunk *next;
	size_t used, size;
	_Alignas(16) uint8_t bytes[];
};

void
rec_mem_fini(struct rec_mem *mem)
{
	for (struct rec_chunk *c = mem->chunks, *next; c != NULL; c = next) {
		next = c->next;
		free(c);
	}
	mem->chunks = NULL;
	mem->used = 0;
}

/* n zeroed bytes, aligned for any type; NULL when over max or out of memory. */
static void *
take_room(struct rec_mem *mem, size_t n)
{
	size_t max = mem->max ? mem->max : REC_MEM_DEFAULT;
	struct rec_chunk *c = mem->chunks;

	if (n > max || mem->used > max - n)
		return NULL;
	size_t need = (n + 15) & ~(size_t)15;
	if (c == NULL || c->size - c->used < need) {
		size_t size = need > 4096 ? need : 4096;
		c = calloc(1, sizeof(*c) + size);
		if (c == NULL)
			return NULL;
		c->size = size;
		c->next = mem->chunks;
		mem->chunks = c;
	}
	void *p = c->bytes + c->used;
	c->used += need;
	mem->used += need;
	return p;
}

static uint64_t
uint_get(const struct rec_field *f, const void *obj)
{
	const void *at = (const char *)obj + f->offset;

	switch (f->size) {
	case 1:
		return *(const uint8_t *)at;
	case 2:
		return *(const uint16_t *)at;
	case 4:
		return *(const uint32_t *)at;
	default:
		return *(const uint64_t *)at;
	}
}

static void
uint_set(const struct rec_field *f, void *obj, uint64_t v)
{
	void *at = (char *)obj + f->offset;

	switch (f->size) {
	case 1:
		*(uint8_t *)at = (uint8_t)v;
		break;
	case 2:
		*(uint16_t *)at = (uint16_t)v;
		break;
	case 4:
		*(uint32_t *)at = (uint32_t)v;
		break;
	default:
		*(uint64_t *)at = v;
	}
}

/* The widest value that the member can hold, so that a row's limit may be written generously. */
static uint64_t
uint_max(const struct rec_field *f)
{
	uint64_t width = f->size >= 8 ? UINT64_MAX : ((uint64_t)1 << (8 * f->size)) - 1;

	return f->limit < width ? f->limit : width;
}

static const char *
str_get(const struct rec_field *f, const void *obj)
{
	const char *s = *(const char *const *)((const char *)obj + f->offset);

	return s != NULL ? s : "";
}

#define MEMBER(type, f, obj) ((const type *)((const char *)(obj) + (f)->offset))
#define ITEM(list, f, i) ((const char *)(list)->items + (i) * (f)->sub_size)

static int
encode(const struct rec_field *f, unsigned version, const void *obj, struct buf *out)
{
	for (; f->kind != REC_KIND_END; f++) {
		const struct rec_blob *blob;
		const struct rec_list *list;
		const char *s;

		if (f->since > version)
			continue;
		switch (f->kind) {
		case REC_KIND_UINT:
			if (uint_get(f, obj) > uint_max(f))
				return ERR_LIMIT;
			wr_varint(out, uint_get(f, obj));
			break;
		case REC_KIND_FIXED:
			buf_put(out, MEMBER(uint8_t, f, obj), f->size);
			break;
		case REC_KIND_STR:
			s = str_get(f, obj);
			if (strlen(s) > f->limit)
				return ERR_LIMIT;
			buf_put(out, s, strlen(s) + 1);
			break;
		case REC_KIND_BLOB:
			blob = MEMBER(struct rec_blob, f, obj);
			if (blob->n > f->limit)
				return ERR_LIMIT;
			wr_varint(out, blob->n);
			if (blob->n > 0)
				buf_put(out, blob->p, blob->n);
			break;
		case REC_KIND_LIST:
			list = MEMBER(struct rec_list, f, obj);
			if (list->n > f->limit)
				return ERR_LIMIT;
			wr_varint(out, list->n);
			for (size_t i = 0; i < list->n; i++) {
				int rc = encode(f->sub, version, ITEM(list, f, i), out);
				if (rc != 0)
					return rc;
			}
			break;
		case REC_KIND_END:
			break;
		}
	}
	return buf_ok(out);
}

int
rec_encode_at(const struct rec_field *fields, unsigned version, const void *obj,
	struct buf *out)
{
	size_t before = out->len;
	int rc = encode(fields, version, obj, out);

	if (rc != 0)
		out->len = before;
	return rc;
}

int
rec_encode(const struct rec_field *fields, const void *obj, struct buf *out)
{
	return rec_encode_at(fields, UINT32_MAX, obj, out);
}

/* The fewest bytes that a struct of this table takes. */
static size_t
item_min(const struct rec_field *f, unsigned version)
{
	size_t n = 0;

	for (; f->kind != REC_KIND_END; f++)
		if (f->since <= version)
			n += f->kind == REC_KIND_FIXED ? f->size : 1;
	return n > 0 ? n : 1;
}

static int decode(const struct rec_field *f, unsigned version, struct rd *in,
	struct rec_mem *mem, void *obj);

static int
decode_list(const struct rec_field *f, unsigned version, struct rd *in,
	struct rec_mem *mem, struct rec_list *list)
{
	uint64_t n = rd_varint_max(in, f->limit);
	char *items;
	int rc = 0;

	if (!rd_ok(in) || n > rd_left(in) / item_min(f->sub, version))
		return ERR_MANGLED;
	if (n == 0)
		return 0;
	if (n > SIZE_MAX / f->sub_size)
		return ERR_NOMEM;
	items = take_room(mem, (size_t)n * f->sub_size);
	if (items == NULL)
		return ERR_NOMEM;
	for (uint64_t i = 0; rc == 0 && i < n; i++)
		rc = decode(f->sub, version, in, mem, items + i * f->sub_size);
	list->items = items;
	list->n = rc == 0 ? (size_t)n : 0;
	return rc;
}

/* A string of the input, with its NUL, or NULL. */
static const char *
decode_str(struct rd *in, uint64_t limit)
{
	size_t left = rd_left(in);
	size_t look = left > limit + 1 ? (size_t)limit + 1 : left;
	const uint8_t *nul = look > 0 ? memchr(in->p, 0, look) : NULL;

	if (nul == NULL) {
		in->failed = true;
		return NULL;
	}
	return (const char *)rd_bytes(in, (size_t)(nul - in->p) + 1);
}

static int
decode(const struct rec_field *f, unsigned version, struct rd *in, struct rec_mem *mem,
	void *obj)
{
	for (; f->kind != REC_KIND_END; f++) {
		char *at = (char *)obj + f->offset;
		const uint8_t *p;
		int rc;

		if (f->since > version) {
			if (f->kind == REC_KIND_STR)
				*(const char **)at = "";
			continue;
		}
		switch (f->kind) {
		case REC_KIND_UINT:
			uint_set(f, obj, rd_varint_max(in, uint_max(f)));
			break;
		case REC_KIND_FIXED:
			p = rd_bytes(in, f->size);
			if (p != NULL)
				memcpy(at, p, f->size);
			break;
		case REC_KIND_STR:
			*(const char **)at = decode_str(in, f->limit);
			break;
		case REC_KIND_BLOB: {
			struct rec_blob *blob = (struct rec_blob *)at;
			blob->p = rd_blob(in,
				f->limit < SIZE_MAX ? (size_t)f->limit : SIZE_MAX,
				&blob->n);
			break;
		}
		case REC_KIND_LIST:
			rc = decode_list(f, version, in, mem, (struct rec_list *)at);
			if (rc != 0)
				return rc;
			break;
		case REC_KIND_END:
			break;
		}
		if (!rd_ok(in))
			return ERR_MANGLED;
	}
	return 0;
}

/* The bytes of a struct in memory are not in its table; the table's extent is what is zeroed. */
static size_t
extent(const struct rec_field *f)
{
	size_t n = 0;

	for (; f->kind != REC_KIND_END; f++)
		if (f->offset + f->size > n)
			n = f->offset + f->size;
	return n;
}

int
rec_decode_at(const struct rec_field *fields, unsigned version, struct rd *in,
	struct rec_mem *mem, void *obj_out)
{
	memset(obj_out, 0, extent(fields));
	return decode(fields, version, in, mem, obj_out);
}

int
rec_decode(const struct rec_field *fields, struct rd *in, struct rec_mem *mem,
	void *obj_out)
{
	return rec_decode_at(fields, UINT32_MAX, in, mem, obj_out);
}

static size_t
varint_size(uint64_t v)
{
	size_t n = 1;

	while (v > 0x7f) {
		v >>= 7;
		n++;
	}
	return n;
}

size_t
rec_size(const struct rec_field *f, const void *obj)
{
	size_t n = 0;

	for (; f->kind != REC_KIND_END; f++) {
		const struct rec_list *list;

		switch (f->kind) {
		case REC_KIND_UINT:
			n += varint_size(uint_get(f, obj));
			break;
		case REC_KIND_FIXED:
			n += f->size;
			break;
		case REC_KIND_STR:
			n += strlen(str_get(f, obj)) + 1;
			break;
		case REC_KIND_BLOB:
			n += varint_size(MEMBER(struct rec_blob, f, obj)->n) +
			     MEMBER(struct rec_blob, f, obj)->n;
			break;
		case REC_KIND_LIST:
			list = MEMBER(struct rec_list, f, obj);
			n += varint_size(list->n);
			for (size_t i = 0; i < list->n; i++)
				n += rec_size(f->sub, ITEM(list, f, i));
			break;
		case REC_KIND_END:
			break;
		}
	}
	return n;
}

static bool
list_equal(
	const struct rec_field *f, const struct rec_list *a, const struct rec_list *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!rec_equal(f->sub, ITEM(a, f, i), ITEM(b, f, i)))
			return false;
	return true;
}

static bool
field_equal(const struct rec_field *f, const void *a, const void *b)
{
	const struct rec_blob *x, *y;

	switch (f->kind) {
	case REC_KIND_UINT:
		return uint_get(f, a) == uint_get(f, b);
	case REC_KIND_FIXED:
		return memcmp(MEMBER(uint8_t, f, a), MEMBER(uint8_t, f, b), f->size) ==
		       0;
	case REC_KIND_STR:
		return strcmp(str_get(f, a), str_get(f, b)) == 0;
	case REC_KIND_BLOB:
		x = MEMBER(struct rec_blob, f, a);
		y = MEMBER(struct rec_blob, f, b);
		return x->n == y->n && (x->n == 0 || memcmp(x->p, y->p, x->n) == 0);
	case REC_KIND_LIST:
		return list_equal(f, MEMBER(struct rec_list, f, a),
			MEMBER(struct rec_list, f, b));
	case REC_KIND_END:
		break;
	}
	return true;
}

bool
rec_equal(const struct rec_field *f, const void *a, const void *b)
{
	for (; f->kind != REC_KIND_END; f++)
		if (!field_equal(f, a, b))
			return false;
	return true;
}

static void
put_hex(struct buf *out, const uint8_t *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		char two[2] = { digits[p[i] >> 4], digits[p[i] & 15] };
		buf_put(out, two, 2);
	}
}

static void
put_quoted(struct buf *out, const char *s)
{
	buf_put(out, "\"", 1);
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;
		if (c < 0x20 || c > 0x7e || c == '"' || c == '\\')
			buf_printf(out, "\\x%02x", c);
		else
			buf_put(out, s, 1);
	}
	buf_put(out, "\"", 1);
}

/* Bytes of the UTF-8 sequence at s, 0 if it is none (overlong forms and surrogates too). */
static size_t
utf8_len(const unsigned char *s)
{
	size_t n = s[0] < 0x80                    ? 1
		   : s[0] >= 0xc2 && s[0] <= 0xdf ? 2
		   : s[0] >= 0xe0 && s[0] <= 0xef ? 3
		   : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
						  : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
		(s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static void
put_json_str(struct buf *out, const char *s)
{
	const unsigned char *at = (const unsigned char *)s;

	buf_put(out, "\"", 1);
	while (*at != '\0') {
		size_t n = utf8_len(at);
		if (n == 0 || *at < 0x20 || *at == 0x7f) {
			buf_printf(out, "\\u%04x", *at);
			n = 1;
		} else if (*at == '"' || *at == '\\') {
			buf_printf(out, "\\%c", *at);
		} else {
			buf_put(out, at, n);
		}
		at += n;
	}
	buf_put(out, "\"", 1);
}

static void
print_field(const struct rec_field *f, const void *obj, struct buf *out)
{
	const struct rec_blob *blob;
	const struct rec_list *list;

	switch (f->kind) {
	case REC_KIND_UINT:
		buf_printf(out, "%" PRIu64, uint_get(f, obj));
		break;
	case REC_KIND_FIXED:
		put_hex(out, MEMBER(uint8_t, f, obj), f->size);
		break;
	case REC_KIND_STR:
		put_quoted(out, str_get(f, obj));
		break;
	case REC_KIND_BLOB:
		blob = MEMBER(struct rec_blob, f, obj);
		put_hex(out, blob->p, blob->n);
		break;
	case REC_KIND_LIST:
		list = MEMBER(struct rec_list, f, obj);
		buf_put(out, "[", 1);
		for (size_t i = 0; i < list->n; i++) {
			if (i > 0)
				buf_put(out, "; ", 2);
			rec_print(f->sub, ITEM(list, f, i), out);
		}
		buf_put(out, "]", 1);
		break;
	case REC_KIND_END:
		break;
	}
}

void
rec_print(const struct rec_field *f, const void *obj, struct buf *out)
{
	for (const char *gap = ""; f->kind != REC_KIND_END; f++, gap = " ") {
		buf_printf(out, "%s%s=", gap, f->name);
		print_field(f, obj, out);
	}
}

static void
json_field(const struct rec_field *f, const void *obj, struct buf *out)
{
	const struct rec_list *list;

	switch (f->kind) {
	case REC_KIND_STR:
		put_json_str(out, str_get(f, obj));
		break;
	case REC_KIND_FIXED:
	case REC_KIND_BLOB:
		buf_put(out, "\"", 1);
		print_field(f, obj, out);
		buf_put(out, "\"", 1);
		break;
	case REC_KIND_LIST:
		list = MEMBER(struct rec_list, f, obj);
		buf_put(out, "[", 1);
		for (size_t i = 0; i < list->n; i++) {
			if (i > 0)
				buf_put(out, ",", 1);
			rec_json(f->sub, ITEM(list, f, i), out);
		}
		buf_put(out, "]", 1);
		break;
	default:
		print_field(f, obj, out);
	}
}

void
rec_json(const struct rec_field *f, const void *obj, struct buf *out)
{
	buf_put(out, "{", 1);
	for (const char *gap = ""; f->kind != REC_KIND_END; f++, gap = ",") {
		buf_printf(out, "%s\"%s\":", gap, f->name);
		json_field(f, obj, out);
	}
	buf_put(out, "}", 1);
}
