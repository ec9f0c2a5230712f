/*
 * The very first start on a spool that holds something, or one whose journal.db is lost: every
 * mailbox's state and every lone path's digest goes to the store; nothing is journaled, for the
 * peers compare.
 *
 * Reading takes the time: every index, every loose file. So the walk gathers some thousands of
 * names, helpers read them side by side, and then they are stored in one transaction, which also
 * says where the log's next line of progress is due.
 *
 * The epoch says that there was a first start; a mark, stored before it and taken away when all
 * states are on disk, that it got through. Whoever finds the mark reads everything again, over
 * what is stored: nobody was served meanwhile, and no peer met.
 *
 * With journal.db what it said of the peers is lost: an active side has each of them compared, a
 * standby says in HELLO that it is to be. Tombstones are lost as well: what was removed and a peer
 * still has is set aside there, not deleted.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GROUP = 8192, HELPERS_MAX = 8 };

static const char compare_key[] = "compare_me";

int
adopt_announce(struct node *n)
{
	return store_put_u64(n->store, STORE_ADOPTING, 1);
}

/* Stored before the mark goes. */
static int
forget_peers(struct node *n)
{
	struct journal_peer p;
	int rc = 0;

	if (n->role == SYNC_STANDBY) {
		n->compare_me = true;
		return store_put_u64(n->store, compare_key, 1);
	}
	for (unsigned i = 0; rc == 0 && journal_peer_at(n->journal, i, &p) == 0; i++)
		if (p.state != JOURNAL_PEER_NEVER) {
			p.state = JOURNAL_PEER_BEHIND;
			rc = journal_peer_set(n->journal, &p);
		}
	n->confirmed = journal_confirmed(n->journal);
	return rc;
}

int
adopt_load(struct node *n)
{
	uint64_t v = 0;
	int rc = store_get_u64(n->store, compare_key, &v);

	n->compare_me = v != 0;
	return rc == ERR_NOTFOUND ? 0 : rc;
}

/* The active side has stored that we are, before it said so. */
void
adopt_compared(struct node *n)
{
	if (n->compare_me && store_del(n->store, compare_key) == 0)
		n->compare_me = false;
}

int
adopt_is_due(struct node *n, bool *due_out)
{
	uint64_t v = 0;
	int rc = store_get_u64(n->store, STORE_ADOPTING, &v);

	*due_out = v != 0;
	return rc == ERR_NOTFOUND ? 0 : rc;
}

struct found {
	char *path;
	struct stat st;
	bool mbox;
	struct mboxent *e; /* NULL: nothing of ours */
	struct mbox_fault fault;
	int rc;
};

struct adoption {
	struct node *n;
	struct found *list;
	size_t count;
	_Atomic size_t next; /* to be read */
	uint64_t mailboxes, paths, aside;
};

static void
read_mailbox(struct node *n, struct found *f)
{
	struct mboxent *e = mboxes_get(n->mboxes, f->path);

	f->rc = ERR_NOMEM;
	if (e == NULL)
		return;
	pthread_mutex_lock(&e->lock);
	f->rc = mbox_load(n->spool, f->path, NULL, e->state, &f->fault);
	if (f->rc == 0) {
		e->known = true;
		mboxes_identify(n->mboxes, e);
	}
	pthread_mutex_unlock(&e->lock);
	f->e = e;
}

static void *
helper(void *arg)
{
	struct adoption *a = arg;
	size_t i;

	while ((i = a->next++) < a->count) {
		struct found *f = &a->list[i];
		if (f->mbox)
			read_mailbox(a->n, f);
		else
			f->rc = node_path_adopt(a->n, f->path, &f->st, &f->e);
	}
	return NULL;
}

static void
read_all(struct adoption *a)
{
	pthread_t threads[HELPERS_MAX];
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = 0;

	a->next = 0;
	while (n < HELPERS_MAX && (long)n + 1 < cores &&
		pthread_create(&threads[n], NULL, helper, a) == 0)
		n++;
	helper(a);
	while (n > 0)
		pthread_join(threads[--n], NULL);
}

/* Stored at once: without a state, nothing else would remember it behind the mark. */
static int
set_aside(struct node *n, struct found *f)
{
	struct inbox_quarantine q = { .dir = f->path };

	pthread_mutex_lock(&f->e->lock);
	node_set_aside(n, f->e, &f->fault, f->rc);
	pthread_mutex_unlock(&f->e->lock);
	q.uid = f->fault.uid;
	q.check = f->fault.check[0] != '\0' ? f->fault.check : "unreadable";
	q.text = f->fault.text[0] != '\0' ? f->fault.text : err_text(f->rc);
	return inbox_quarantine_put(n->inbox, &q);
}

static int
store_one(struct adoption *a, struct found *f)
{
	struct node *n = a->n;
	struct buf bytes = BUF_INIT;
	int rc;

	if (f->mbox && f->rc != 0 && f->e != NULL) {
		a->aside++;
		return set_aside(n, f);
	}
	if (f->rc != 0 || f->e == NULL)
		return f->rc;
	a->mailboxes += f->mbox;
	a->paths += !f->mbox;
	rc = mboxes_encode(f->e, &bytes);
	if (rc == 0) {
		struct store_mbox m = { f->e->dir, mboxes_id(f->e), 0, bytes.data,
			bytes.len };
		rc = store_mbox_put(n->store, &m);
	}
	buf_fini(&bytes);
	return rc;
}

static int
store_all(struct adoption *a)
{
	int rc;

	if (a->count == 0)
		return 0;
	read_all(a);
	rc = journal_begin(a->n->journal);
	for (size_t i = 0; rc == 0 && i < a->count; i++)
		rc = store_one(a, &a->list[i]);
	if (rc == 0)
		rc = journal_commit(a->n->journal);
	else
		journal_rollback(a->n->journal);
	for (size_t i = 0; i < a->count; i++)
		free(a->list[i].path);
	a->count = 0;
	return rc;
}

static int
on_found(void *arg, const char *dir, const char *name, bool mbox, const struct stat *st)
{
	struct adoption *a = arg;
	struct found *f = &a->list[a->count];

	if (dir[0] == '\0' && name == NULL)
		return 0;
	memset(f, 0, sizeof(*f));
	if (mbox || name == NULL)
		f->path = strdup(dir);
	else if (asprintf(&f->path, "%s%s%s", dir, dir[0] ? "/" : "", name) < 0)
		f->path = NULL;
	if (f->path == NULL)
		return ERR_NOMEM;
	if (strlen(f->path) >= BATCH_MAX_PATH) {
		log_warn("a path is too long and is not replicated: path=%s", f->path);
		free(f->path);
		return 0;
	}
	f->mbox = mbox;
	f->st = *st;
	if (++a->count < GROUP)
		return 0;
	int rc = store_all(a);
	if (rc == 0)
		log_info("adopting the spool: mailboxes=%" PRIu64 " paths=%" PRIu64,
			a->mailboxes, a->paths);
	return rc;
}

int
adopt_spool(struct node *n)
{
	struct adoption a = { .n = n, .list = calloc(GROUP, sizeof(struct found)) };
	int rc = a.list == NULL ? ERR_NOMEM : spool_walk(n->spool, on_found, &a);

	if (rc == 0)
		rc = store_all(&a);
	for (size_t i = 0; i < a.count; i++)
		free(a.list[i].path);
	free(a.list);
	if (rc == 0 && (rc = forget_peers(n)) == 0 && (rc = store_sync(n->store)) == 0)
		rc = store_del(n->store, STORE_ADOPTING);
	if (rc == 0 && a.mailboxes + a.paths + a.aside > 0)
		log_info("spool adopted: mailboxes=%" PRIu64 " paths=%" PRIu64
			 " set_aside=%" PRIu64,
			a.mailboxes, a.paths, a.aside);
	return rc;
}
