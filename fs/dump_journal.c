/*
 * How it works: a piece of the journal becomes text, then it is printed, with nothing held that a
 * server might wait for. A row that does not decode is printed with what the table says of it.
 */
#include "fs/dump.h"
#include "fs/emit.h"
#include "meta/base/err.h"
#include "meta/batch.h"
#include "sync/journal_look.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const char magic[16] = "SQLite format 3";

struct printing {
	struct emit e;
	int damage; /* of any row */
};

bool
dump_is_journal(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char head[sizeof(magic)];
	bool is = fd >= 0 && read(fd, head, sizeof(head)) == (ssize_t)sizeof(head) &&
		  memcmp(head, magic, sizeof(head)) == 0;

	if (fd >= 0)
		close(fd);
	return is;
}

static void
print_sum(struct emit *e, const char *name, struct sum s)
{
	struct buf text = BUF_INIT;

	buf_printf(&text, "%016" PRIx64 "%016" PRIx64, s.hi, s.lo);
	emit_text(e, name, buf_str(&text));
	buf_fini(&text);
}

static void
print_batch(struct emit *e, const struct batch *b)
{
	struct buf text = BUF_INIT;

	if (b->dir[0] != '\0')
		emit_text(e, "uniqueid", b->uniqueid);
	emit_text(e, "from", b->from_dir);
	batch_print_flags(b, &text);
	if (text.len > 0)
		emit_text(e, "flags", buf_str(&text) + 1);
	if (batch_has_before(b))
		print_sum(e, "before", b->before);
	if (batch_has_after(b))
		print_sum(e, "after", b->after);
	emit_list(e, "changes");
	for (size_t i = 0; i < b->n; i++) {
		buf_clear(&text);
		batch_print_change(&b->changes[i], &text);
		emit_item(e, text.data, text.len);
	}
	emit_list_end(e);
	buf_fini(&text);
}

static int
print_row(void *arg, const struct journal_row *row, int damage)
{
	struct printing *p = arg;
	struct batch b;
	int rc = batch_decode(row->bytes, row->n, &b);

	if (rc == ERR_NOMEM)
		return rc;
	/* What the row says of itself and what its bytes say must agree. */
	bool path = row->dir[0] == '/' || row->dir[0] == '\0';
	if (damage == 0 && rc == 0 && strcmp(b.dir, path ? "" : row->dir) != 0)
		damage = ERR_MANGLED;
	if (rc != 0)
		damage = rc;
	emit_thing(&p->e, "batch", false);
	emit_number(&p->e, "epoch", row->pos.epoch);
	emit_number(&p->e, "run", row->pos.run);
	emit_number(&p->e, "seq", row->pos.seq);
	emit_time(&p->e, "time", row->time);
	emit_number(&p->e, "size", row->n);
	if (row->dir[0] != '\0')
		emit_text(&p->e, path ? "path" : "dir", row->dir + path);
	if (damage != 0) {
		emit_text(&p->e, "damage", err_text(damage));
		p->damage = damage;
	}
	if (rc == 0)
		print_batch(&p->e, &b);
	emit_close(&p->e);
	if (rc == 0)
		batch_fini(&b);
	return buf_ok(p->e.out);
}

static int
flush(struct buf *text, FILE *to)
{
	size_t n = text->len;
	int rc = fwrite(text->data, 1, n, to) != n || fflush(to) != 0 ? ERR_IO : 0;

	buf_clear(text);
	return rc;
}

int
dump_journal(const char *path, bool json, FILE *to)
{
	struct printing p = { .damage = 0 };
	struct buf text = BUF_INIT;
	struct journal_look *l;
	int rc = journal_look_open(path, &l), end;

	emit_begin(&p.e, &text, json);
	while (rc == 0 && (rc = journal_look_next(l, print_row, &p)) > 0)
		rc = flush(&text, to);
	if (rc != 0) {
		emit_thing(&p.e, "unreadable", false);
		emit_text(&p.e, "damage", err_text(rc));
		emit_close(&p.e);
	}
	emit_end(&p.e);
	end = flush(&text, to);
	journal_look_close(l);
	buf_fini(&text);
	return rc != 0 ? rc : end != 0 ? end : p.damage;
}
