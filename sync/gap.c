/*
 * What the last process left, before any thread of this one runs (design 4, 7).
 *
 *   the very first start     no state is known: the spool is walked once and every mailbox's
 *                            state computed; peers compare, nothing is journaled
 *   after a clean stop       states are read from the store, no file is looked at
 *   after an unclean one     each mailbox's index is compared with its state by inode, size and
 *                            mtime, and read where these differ or are too young to tell; what
 *                            moved gets a derived batch. Then the noted paths, which are all
 *                            that can be new or gone. Absence is never read as deletion: a known
 *                            mailbox that is not there and was not noted is set aside.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
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
	if ((rc = mbox_state_decode(m->state, m->n, &e->state)) != 0) {
		log_err("stored state of a mailbox is unreadable, it is read anew: "
			"dir=%s: %s",
			m->dir, err_text(rc));
		memset(&e->state, 0, sizeof(e->state));
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
	return 0;
}

int
gap_load(struct node *n)
{
	int rc = store_mbox_walk(n->store, "", 0, load_one, n);

	return rc != 0 ? rc : inbox_quarantine_walk(n->inbox, load_aside, n);
}

struct adoption {
	struct node *n;
	uint64_t mailboxes, paths, aside;
	int rc;
};

static int
store_entry(struct node *n, struct mboxent *e)
{
	struct buf bytes = BUF_INIT;
	int rc = mbox_state_encode(&e->state, &bytes);

	if (rc == 0) {
		struct store_mbox m = { e->dir, e->state.uniqueid, 0, bytes.data,
			bytes.len };
		rc = store_mbox_put(n->store, &m);
	}
	buf_fini(&bytes);
	return rc;
}

static int
adopt_one(
	void *arg, const char *dir, const char *name, bool mbox, const struct stat *st)
{
	struct adoption *a = arg;
	struct node *n = a->n;
	struct mbox_fault fault = { 0 };
	char path[BATCH_MAX_PATH];
	int rc;

	(void)st;
	if (!mbox) {
		snprintf(path, sizeof(path), "%s%s%s", dir, dir[0] && name ? "/" : "",
			name ? name : "");
		if (path[0] != '\0')
			node_path_now(n, path, NULL, NULL);
		a->paths++;
		return 0;
	}
	struct mboxent *e = mboxes_get(n->mboxes, dir);
	if (e == NULL)
		return ERR_NOMEM;
	pthread_mutex_lock(&e->lock);
	rc = mbox_load(n->spool, dir, &e->state, &fault);
	if (rc == 0) {
		e->known = true;
		a->mailboxes++;
		mboxes_identify(n->mboxes, e);
		rc = store_entry(n, e);
	} else {
		a->aside++;
		node_set_aside(n, e, &fault, rc);
		rc = 0;
	}
	pthread_mutex_unlock(&e->lock);
	if (a->mailboxes % 1000 == 999)
		log_info("adopting the spool: mailboxes=%" PRIu64, a->mailboxes);
	return rc;
}

int
gap_adopt(struct node *n)
{
	struct adoption a = { .n = n };
	int rc = spool_walk(n->spool, adopt_one, &a);

	if (rc == 0 && a.mailboxes + a.paths + a.aside > 0)
		log_info("spool adopted: mailboxes=%" PRIu64 " paths=%" PRIu64
			 " set_aside=%" PRIu64,
			a.mailboxes, a.paths, a.aside);
	return rc;
}

static void
derive(struct node *n, const char *dir)
{
	struct sync *s = (struct sync *)n; /* node is its first member */
	struct sync_commit c = { .dir = dir, .derive = true, .annots = true };

	sync_commit(s, &c);
}

static void
look_at(struct node *n, struct mboxent *e, uint64_t synced_ns, uint64_t *moved)
{
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
	uint64_t mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
			 (uint64_t)st.st_mtim.tv_nsec;
	if (rc == 0 && !e->redo && st.st_ino == e->state.index_ino &&
		(uint64_t)st.st_size == e->state.index_size &&
		mtime == e->state.index_mtime && mtime + YOUNG_NS < synced_ns)
		return;
	(*moved)++;
	derive(n, e->dir);
}

static int
look_at_note(void *arg, const char *path)
{
	struct node *n = arg;
	struct mboxent *e = mboxes_find(n->mboxes, path);
	int fd;

	if (spool_file(n->spool, path, "cyrus.index", O_PATH, 0, &fd) == 0) {
		close(fd);
		if (e == NULL || !e->known)
			derive(n, path);
		return 0;
	}
	/* Gone, and noted by the rmdir: removed. There without its index: missing. */
	if (e != NULL && e->known) {
		node_remove_gone(n, path, NULL, NULL);
		return 0;
	}
	node_path_now(n, path, NULL, NULL);
	return 0;
}

int
gap_close(struct node *n, bool takeover)
{
	struct journal_facts jf;
	size_t count;
	uint64_t moved = 0, began = clock_ms();

	journal_facts(n->journal, &jf);
	/* Noted paths first: a mailbox that was being removed is not missing. */
	int rc = notes_walk(n->notes, look_at_note, n);
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
		look_at(n, e, clock_wall_ns(), &moved);
	}
	free(list);
	log_info("own gap closed after an unclean stop: mailboxes=%zu moved=%" PRIu64
		 " ms=%" PRIu64,
		count, moved, clock_ms() - began);
	return 0;
}
