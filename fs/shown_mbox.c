/*
 * shown_mbox.c - one mailbox as the hidden folder shows it.
 *
 * state comes from replication's memory, name and index from the files as they are at that
 * moment; a damaged one is shown as far as it can be read, with the reason in the last line.
 */
#include "fs/shown_mbox.h"

#include "fs/dump.h"
#include "fs/emit.h"
#include "fs/vdir.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/header.h"
#include "meta/mbox.h"
#include "sync/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	struct sync *sync;
	const char *spool;
} shown;

/* The path of a file of that mailbox in the backing tree. 0 or an errno. */
static int
path_of(const char *id, const char *name, char *out, size_t size)
{
	char dir[PATH_MAX];

	if (sync_mailbox_by_id(shown.sync, id, dir, sizeof(dir)) != 0)
		return ENOENT;
	int n = snprintf(out, size, "%s/%s/%s", shown.spool, dir, name);
	return n > 0 && (size_t)n < size ? 0 : ENAMETOOLONG;
}

static void
put_sum(struct emit *e, const char *name, struct sum sum)
{
	uint8_t bytes[SUM_LEN];
	char hex[2 * SUM_LEN + 1];

	sum_put(sum, bytes);
	hash_hex(bytes, sizeof(bytes), hex);
	emit_text(e, name, hex);
}

static int
fill_state(void *arg, const char *id, struct buf *out)
{
	struct mbox_state state;
	char dir[PATH_MAX];
	struct emit e;

	(void)arg;
	if (sync_mailbox_by_id(shown.sync, id, dir, sizeof(dir)) != 0)
		return ENOENT;
	emit_begin(&e, out, false);
	emit_thing(&e, "mailbox", true);
	emit_text(&e, "uniqueid", id);
	emit_text(&e, "dir", dir);
	if (sync_mailbox_state(shown.sync, dir, &state) == 0) {
		emit_number(&e, "version", state.header.minor_version);
		emit_number(&e, "uidvalidity", state.header.uidvalidity);
		emit_number(&e, "last_uid", state.header.last_uid);
		emit_number(&e, "exists", state.header.exists);
		emit_number(&e, "records", state.header.num_records);
		emit_number(&e, "highestmodseq", state.header.highestmodseq);
		put_sum(&e, "sum", mbox_sum_total(&state.sum));
	} else {
		emit_text(&e, "known", "no");
	}
	emit_close(&e);
	emit_end(&e);
	return 0;
}

static int
fill_name(void *arg, const char *id, struct buf *out)
{
	char path[2 * PATH_MAX];
	struct header h;
	int err = path_of(id, "cyrus.header", path, sizeof(path)), fd;

	(void)arg;
	if (err != 0)
		return err;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno;
	uint8_t *bytes = malloc(HEADER_MAX_FILE);
	ssize_t n = bytes == NULL ? -1 : pread(fd, bytes, HEADER_MAX_FILE, 0);
	close(fd);
	if (n < 0) {
		free(bytes);
		return bytes == NULL ? ENOMEM : EIO;
	}
	int rc = header_decode(bytes, (size_t)n, &h);
	free(bytes);
	if (rc != 0)
		return err_errno(rc);
	if (h.name != NULL)
		buf_printf(out, "%s\n", h.name);
	header_fini(&h);
	return 0;
}

static int
fill_index(void *arg, const char *id, struct buf *out)
{
	char path[2 * PATH_MAX];
	int err = path_of(id, "cyrus.index", path, sizeof(path)), rc;

	(void)arg;
	if (err != 0)
		return err;
	rc = dump_file(path, false, out);
	if (rc != 0 && out->len == 0)
		return err_errno(rc);
	if (rc != 0)
		buf_printf(out, "damaged: %s\n", err_text(rc));
	return 0;
}

static bool
has(void *arg, const char *id)
{
	char dir[PATH_MAX];

	(void)arg;
	return sync_mailbox_by_id(shown.sync, id, dir, sizeof(dir)) == 0;
}

struct each {
	void (*fn)(void *arg, const char *id);
	void *arg;
};

static void
each_one(void *arg, const char *dir, const char *id)
{
	struct each *e = arg;

	(void)dir;
	if (id[0] != '\0' && strchr(id, '/') == NULL)
		e->fn(e->arg, id);
}

static void
each(void *arg, void (*fn)(void *fn_arg, const char *id), void *fn_arg)
{
	struct each e = { fn, fn_arg };

	(void)arg;
	sync_each_mailbox(shown.sync, each_one, &e);
}

int
shown_mbox_start(struct sync *sync, const char *spool)
{
	static const struct vdir_mailboxes mailboxes = { NULL, has, each };

	shown.sync = sync;
	shown.spool = spool;
	vdir_set_mailboxes(&mailboxes);
	if (vdir_add_mailbox("state", fill_state, NULL) != 0 ||
		vdir_add_mailbox("name", fill_name, NULL) != 0 ||
		vdir_add_mailbox("index", fill_index, NULL) != 0)
		return ERR_LIMIT;
	return 0;
}
