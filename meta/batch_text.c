/*
 * batch_text.c - a batch as lines for dump and for the log: no mail, no values of annotations.
 */
#include "meta/batch.h"

#include <inttypes.h>

static const char *const kind_names[] = {
	[CHANGE_RECORD] = "record",
	[CHANGE_PURGE] = "purge",
	[CHANGE_HEADER] = "header",
	[CHANGE_NAMES] = "names",
	[CHANGE_ANNOTS] = "annots",
	[CHANGE_OWNER] = "owner",
	[CHANGE_FILE] = "file",
	[CHANGE_DIR] = "dir",
	[CHANGE_SYMLINK] = "symlink",
	[CHANGE_NODE] = "node",
	[CHANGE_DELETE] = "delete",
	[CHANGE_MOVE] = "move",
	[CHANGE_SWAP] = "swap",
	[CHANGE_BODY] = "body",
};

static void
print_sum(const char *name, struct sum s, struct buf *out)
{
	buf_printf(out, " %s=%016" PRIx64 "%016" PRIx64, name, s.hi, s.lo);
}

void
batch_print_change(const struct change *c, struct buf *out)
{
	char hex[2 * SHA1_LEN + 1];

	buf_printf(out, "%s", kind_names[c->kind]);
	switch (c->kind) {
	case CHANGE_RECORD: {
		const struct change_record *r = &c->u.record;
		buf_printf(out, " uid=%" PRIu32 "%s", r->r.uid,
			r->append ? " append" : "");
		change_record_print(
			&r->r, r->append ? change_append_mask(&r->r) : r->mask, out);
		if (r->elsewhere)
			buf_printf(out, " elsewhere");
		if (r->cache != NULL)
			buf_printf(out, " cache=%zu", r->cache_len);
		if (r->ref_dir != NULL)
			buf_printf(out, " body-as=%s/%" PRIu32 ".", r->ref_dir,
				r->ref_uid);
		break;
	}
	case CHANGE_PURGE:
		hash_hex(c->u.purge.guid, SHA1_LEN, hex);
		buf_printf(out, " uid=%" PRIu32 " guid=%s", c->u.purge.uid, hex);
		break;
	case CHANGE_HEADER:
		change_header_print(&c->u.header.h, c->u.header.mask, out);
		break;
	case CHANGE_NAMES:
		buf_printf(out, " size=%zu", c->u.names.n);
		break;
	case CHANGE_ANNOTS:
		buf_printf(
			out, " uid=%" PRIu32 " n=%zu", c->u.annots.uid, c->u.annots.n);
		break;
	case CHANGE_OWNER:
		buf_printf(out, " uid=%" PRIu32 " gid=%" PRIu32 " dir=%04o index=%04o",
			c->u.owner.uid, c->u.owner.gid, c->u.owner.dir_mode,
			c->u.owner.index_mode);
		break;
	case CHANGE_BODY:
		buf_printf(out,
			" uid=%" PRIu32 " owner=%" PRIu32 " group=%" PRIu32
			" mode=%04o",
			c->u.body.uid, c->u.body.owner, c->u.body.group,
			c->u.body.mode);
		break;
	case CHANGE_FILE:
		hash_hex(c->u.path.sha1, SHA1_LEN, hex);
		buf_printf(out, " path=%s mode=%o size=%" PRIu64 " sha1=%s",
			c->u.path.path, c->u.path.mode, c->u.path.size, hex);
		break;
	case CHANGE_DIR:
	case CHANGE_NODE:
		buf_printf(out, " path=%s mode=%o", c->u.path.path, c->u.path.mode);
		break;
	case CHANGE_DELETE:
		buf_printf(out, " path=%s", c->u.path.path);
		break;
	case CHANGE_SYMLINK:
	case CHANGE_MOVE:
	case CHANGE_SWAP:
		buf_printf(out, " path=%s to=%s", c->u.path.path, c->u.path.target);
		break;
	}
}

void
batch_print_flags(const struct batch *b, struct buf *out)
{
	static const char *const names[] = { "whole", "derived", "create", "remove",
		"partial" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (b->flags >> i & 1)
			buf_printf(out, " %s", names[i]);
}

void
batch_print(const struct batch *b, struct buf *out)
{
	bool path = b->dir[0] == '\0';

	buf_printf(out, "batch");
	if (!path)
		buf_printf(out, " dir=%s uniqueid=%s", b->dir, b->uniqueid);
	batch_print_flags(b, out);
	if (b->from_dir != NULL)
		buf_printf(out, " from=%s", b->from_dir);
	if (batch_has_before(b))
		print_sum("before", b->before, out);
	if (batch_has_after(b))
		print_sum("after", b->after, out);
	buf_printf(out, "\n");
	for (size_t i = 0; i < b->n; i++) {
		batch_print_change(&b->changes[i], out);
		buf_printf(out, "\n");
	}
}
