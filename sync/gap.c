/*
 * What the last process left, before any thread of this one runs (design 4, 7).
 *
 *   the very first start     no state is known: see adopt.c
 *   after a clean stop       states are read from the store, no file is looked at
 *   after an unclean one     each mailbox's index is compared with its state by inode, size and
 *                            mtime, and read where these differ or are too young to tell, or where
 *                            cyrus.header or cyrus.annotations is younger (decision 0020); what
 *                            moved gets a derived batch. Before that the noted paths, which are
 *                            all that can be new or gone, or have another name. Absence is never read as deletion: a known
 *                            mailbox that is not there and was not noted is set aside.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/base/path.h"
#include "meta/header.h"
#include "meta/spool.h"
#include "sync/node.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define YOUNG_NS (60ull * 1000000000ull)

static int
load_one(void *arg, const struct store_mbox *m)
{
	struct node *n = arg;
	struct mboxent *e = mboxes_get(n->mboxes, m->dir);
	int rc;

	if (e == NULL)
		return ERR_NOMEM;
	if ((rc = mboxes_decode(e, m->state, m->n)) != 0) {
		log_err("stored state of a mailbox is unreadable, it is read anew: "
			"dir=%s: %s",
			m->dir, err_text(rc));
		e->redo = true;
	}
	e->known = true;
	mboxes_identify(n->mboxes, e);
	return 0;
}

static int
load_aside(void *arg, const struct inbox_quarantine *q)
{
	struct node *n = arg;
	struct mboxent *e = mboxes_get(n->mboxes, q->dir);

	if (e == NULL)
		return ERR_NOMEM;
	e->aside = true;
	e->has_more = strcmp(q->check, "has-more") == 0;
	return 0;
}

int
gap_load(struct node *n)
{
	mboxes_expect(n->mboxes, store_mbox_count(n->store));
	int rc = store_mbox_walk(n->store, "", 0, load_one, n);

	return rc != 0 ? rc : inbox_quarantine_walk(n->inbox, load_aside, n);
}

struct gap {
	struct node *n;
	bool on_disk; /* whatever is found */
	uint64_t moved; /* mailboxes */
};

/* The writer may have died with us before its sync: the journal never says what a power cut can
 * take back. */
static void
derive(struct gap *g, const char *dir)
{
	struct sync *s = (struct sync *)g->n; /* node is its first member */
	struct sync_commit c = { .dir = dir, .derive = true, .annots = true };
	int rc = g->on_disk ? 0 : spool_sync(g->n->spool);

	if (rc != 0) {
		log_err("the spool cannot be synced; what a crash has left is looked "
			"at "
			"later: dir=%s: %s",
			dir, err_text(rc));
		return;
	}
	g->on_disk = true;
	g->moved++;
	sync_commit(s, &c);
}

static uint64_t
ns_of(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * 1000000000u +
	       (uint64_t)st->st_mtim.tv_nsec;
}

/* Written behind the index that confirms it: Cyrus may have died with us between the two. */
static bool
is_behind(struct node *n, const char *dir, const char *name, uint64_t index_ns)
{
	struct stat st;
	int rc = spool_stat(n->spool, dir, name, &st);

	return rc == 0 ? ns_of(&st) > index_ns : rc != ERR_NOTFOUND;
}

/* An index as young as the last entry that the journal kept may have been written again within
 * the same tick of the file system's clock, however long ago that is now. */
static void
look_at(struct gap *g, struct mboxent *e, uint64_t entry_ns)
{
	struct node *n = g->n;
	struct mbox_fault fault = { 0 };
	struct stat st;
	int fd, rc;

	rc = spool_file(n->spool, e->dir, "cyrus.index", O_PATH, 0, &fd);
	if (rc != 0) {
		pthread_mutex_lock(&e->lock);
		snprintf(fault.check, sizeof(fault.check), "missing");
		snprintf(fault.text, sizeof(fault.text),
			"the mailbox was there before the crash and is not now; "
			"nothing is "
			"deleted on the peer: restore it, or remove it through the "
			"server");
		node_set_aside(n, e, &fault, rc);
		pthread_mutex_unlock(&e->lock);
		return;
	}
	rc = fstat(fd, &st);
	close(fd);
	uint64_t mtime = ns_of(&st);
	if (rc == 0 && !e->redo && st.st_ino == e->state->index_ino &&
		(uint64_t)st.st_size == e->state->index_size &&
		mtime == e->state->index_mtime && mtime + YOUNG_NS < entry_ns &&
		!is_behind(n, e->dir, "cyrus.header", mtime) &&
		!is_behind(n, e->dir, "cyrus.annotations", mtime))
		return;
	derive(g, e->dir);
}

/* ---- noted paths ---- */

struct noted {
	struct node *n;
	char **paths;
	bool *there;
	size_t count, cap;
};

static int
collect(void *arg, const char *path)
{
	struct noted *l = arg;
	struct stat st;

	if (l->count == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		char **paths = realloc(l->paths, cap * sizeof(*paths));
		if (paths != NULL)
			l->paths = paths;
		bool *there = realloc(l->there, cap * sizeof(*there));
		if (there != NULL)
			l->there = there;
		if (paths == NULL || there == NULL)
			return ERR_NOMEM;
		l->cap = cap;
	}
	if ((l->paths[l->count] = strdup(path)) == NULL)
		return ERR_NOMEM;
	l->there[l->count++] = spool_stat(l->n->spool, path, NULL, &st) == 0;
	return 0;
}

static void
noted_free(struct noted *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->paths[i]);
	free(l->paths);
	free(l->there);
}

/* Does the folder hold the mailbox of this id? */
static bool
holds_id(struct node *n, const char *dir, const char *uniqueid)
{
	struct buf bytes = BUF_INIT;
	struct header h;
	bool same = false;

	if (spool_read(n->spool, dir, "cyrus.header", HEADER_MAX_FILE, &bytes, NULL) ==
			0 &&
		header_decode(bytes.data, bytes.len, &h) == 0) {
		same = uniqueid[0] != '\0' && strcmp(h.uniqueid, uniqueid) == 0;
		header_fini(&h);
	}
	buf_fini(&bytes);
	return same;
}

/* Does to hold a mailbox, or a plain folder something, that we know as being in from and not in
 * to? */
static bool
is_moved(struct node *n, const char *from, const char *to, bool by_id)
{
	size_t count;
	struct mboxent **list = mboxes_list(n->mboxes, &count);
	char dir[BATCH_MAX_PATH];
	struct stat st;
	bool moved = false;

	for (size_t i = 0; list != NULL && i < count && !moved; i++) {
		bool path = mboxes_is_path(list[i]->dir);
		const char *rest = path_rest(list[i]->dir + path, from);
		if (!list[i]->known || rest == NULL ||
			(path && (by_id || rest[0] == '\0')) ||
			(size_t)snprintf(dir, sizeof(dir), "%s%s%s", path ? "/" : "",
				to, rest) >= sizeof(dir))
			continue;
		struct mboxent *e = mboxes_find(n->mboxes, dir);
		if (path)
			moved = (e == NULL || !e->known) &&
				spool_stat(n->spool, dir + 1, NULL, &st) == 0;
		else
			moved = (e == NULL || !e->known ||
					strcmp(mboxes_id(e), mboxes_id(list[i])) !=
						0) &&
				holds_id(n, dir, mboxes_id(list[i]));
	}
	free(list);
	return moved;
}

/* What is no mailbox's, in and below a folder that was moved, may not be what it was before. */
static void
look_below(struct node *n, const char *folder)
{
	size_t count;
	struct mboxent **list = mboxes_list(n->mboxes, &count);

	for (size_t i = 0; list != NULL && i < count; i++) {
		const char *path = list[i]->dir + 1;
		const char *rest = path_rest(path, folder);
		if (list[i]->known && mboxes_is_path(list[i]->dir) && rest != NULL &&
			rest[0] == '/')
			node_path_now(n, path, 0, NULL, NULL);
	}
	free(list);
}

/* Died between a folder's move and its row: both names were noted, the ids say which is which. */
static bool
find_move(struct node *n, const char *from, const char *to, bool both)
{
	if (!is_moved(n, from, to, both))
		return false;
	log_info("%s before the crash: from=%s to=%s",
		both ? "folders changed places" : "a folder was moved", from, to);
	if (both)
		node_swap(n, from, to);
	else
		node_move(n, from, to);
	look_below(n, to);
	if (both)
		look_below(n, from);
	return true;
}

static void
find_moves(struct noted *l)
{
	bool found;

	for (size_t i = 0; i < l->count; i++) {
		found = false;
		for (size_t k = 0; !l->there[i] && k < l->count && !found; k++)
			found = l->there[k] &&
				find_move(l->n, l->paths[i], l->paths[k], false);
	}
	/* Two that are both there changed places if an id says so. */
	for (size_t i = 0; i < l->count; i++) {
		found = false;
		for (size_t k = 0; l->there[i] && k < l->count && !found; k++)
			found = k != i && l->there[k] &&
				find_move(l->n, l->paths[i], l->paths[k], true);
	}
}

struct row_moves {
	struct moves *moves;
	uint64_t seq;
};

static void
add_move(void *arg, const char *from, const char *to)
{
	struct row_moves *m = arg;

	moves_add(m->moves, m->seq, from, to);
}

static int
read_move(void *arg, const struct journal_row *row)
{
	struct node *n = arg;
	struct batch b;

	if (row->dir[0] != '\0' || batch_decode(row->bytes, row->n, &b) != 0)
		return 0;
	for (size_t i = 0; i < b.n; i++)
		if (b.changes[i].kind == CHANGE_MOVE)
			moves_add(n->moves, row->pos.seq, b.changes[i].u.path.path,
				b.changes[i].u.path.target);
		else if (b.changes[i].kind == CHANGE_SWAP)
			node_swap_steps(b.changes[i].u.path.path,
				b.changes[i].u.path.target, add_move,
				&(struct row_moves){ n->moves, row->pos.seq });
	batch_fini(&b);
	return 0;
}

void
gap_moves(struct node *n)
{
	struct journal_facts jf;
	uint64_t at, before;

	journal_facts(n->journal, &jf);
	if (n->confirmed == UINT64_MAX)
		return;
	at = n->confirmed + 1 > jf.first ? n->confirmed + 1 : jf.first;
	for (before = 0; at > before && at <= jf.last.seq;) {
		before = at;
		if (journal_read(n->journal, at, 4 << 20, read_move, n, &at) != 0)
			break;
	}
}

/* Of a mailbox's folder or anything else; it may be a file. */
static bool
is_absent(struct node *n, const char *path)
{
	int fd, rc = spool_file(n->spool, path, NULL, O_PATH | O_NOFOLLOW, 0, &fd);

	if (rc == 0)
		close(fd);
	return rc == ERR_NOTFOUND;
}

static int
look_at_note(struct gap *g, const char *path)
{
	struct node *n = g->n;
	struct mboxent *e = mboxes_find(n->mboxes, path);
	char key[BATCH_MAX_PATH + 2];
	int fd;

	if (spool_file(n->spool, path, "cyrus.index", O_PATH, 0, &fd) == 0) {
		close(fd);
		if (e == NULL || !e->known)
			derive(g, path);
		return 0;
	}
	bool known = e != NULL && e->known, gone = is_absent(n, path);
	/* Gone, and noted before its removal: removed. Noted for another reason, or there without its
	 * index: missing. */
	if (known && (!gone || !notes_is_leaving(n->notes, path)))
		return 0;
	snprintf(key, sizeof(key), "/%s", path);
	e = mboxes_find(n->mboxes, key);
	if (e != NULL && e->known && gone && !notes_is_leaving(n->notes, path)) {
		log_warn("a path was there before the crash and is not now; nothing is "
			 "deleted on the peer: restore it, or make it and remove it "
			 "path=%s",
			path);
		return 0;
	}
	node_path_now(n, path, 0, NULL, NULL);
	return 0;
}

int
gap_close(struct node *n, bool takeover)
{
	struct journal_facts jf;
	size_t count;
	uint64_t began = clock_ms();
	struct gap g = { .n = n };

	journal_facts(n->journal, &jf);
	/* Noted paths first: a mailbox that was being removed is not missing. */
	struct noted l = { .n = n };
	int rc = notes_walk(n->notes, collect, &l);
	if (rc == 0)
		find_moves(&l);
	/* What came first: a mailbox that was renamed link by link is known while it is in both. */
	for (int there = 1; there >= 0; there--)
		for (size_t i = 0; rc == 0 && i < l.count; i++)
			if (l.there[i] == there)
				rc = look_at_note(&g, l.paths[i]);
	noted_free(&l);
	if (rc != 0)
		return rc;
	/* Only the server died: capture's marks name every mailbox that it left. */
	if (takeover)
		return 0;
	struct mboxent **list = mboxes_list(n->mboxes, &count);
	if (list == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < count; i++) {
		struct mboxent *e = list[i];
		if (!e->known)
			continue;
		if (mboxes_is_path(e->dir))
			continue;
		look_at(&g, e, jf.newest);
	}
	free(list);
	log_info("own gap closed after an unclean stop: mailboxes=%zu moved=%" PRIu64
		 " ms=%" PRIu64,
		count, g.moved, clock_ms() - began);
	return 0;
}
