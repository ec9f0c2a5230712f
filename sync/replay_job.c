/*
 * replay_job.c - one batch onto this spool: the mailbox's lock, apply, its new state.
 */
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/mend.h"
#include "meta/spool.h"
#include "sync/replay_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- what replay needs of its surroundings (mbox_env) ---- */

static struct node *
node_of(void *replay)
{
	return ((struct replay *)replay)->n;
}

static int
take_body(void *arg, const uint8_t guid[SHA1_LEN], const struct spool_place *to)
{
	struct node *n = node_of(arg);

	return held_place(n->held, guid, to);
}

static void
drop_body(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct node *n = node_of(arg);

	held_drop(n->held, guid);
}

/* While any mailbox is set aside its held rows may name the body; so may those that were skipped
 * for a repair. */
static bool
keep_body(void *arg, const uint8_t guid[SHA1_LEN])
{
	(void)guid;
	return ask_keeps(node_of(arg));
}

static bool
begin_in_place(void *arg, const char *dir, const char *name, int fd)
{
	struct node *n = node_of(arg);

	return n->hooks.begin_in_place == NULL ||
	       n->hooks.begin_in_place(n->hooks.arg, dir, name, fd);
}

static void
end_in_place(void *arg, const char *dir, const char *name, int fd)
{
	struct node *n = node_of(arg);

	if (n->hooks.end_in_place != NULL)
		n->hooks.end_in_place(n->hooks.arg, dir, name, fd);
}

static void
spread(void *arg, void (*fn)(void *, size_t), void *fn_arg, size_t n)
{
	replay_work_share(arg, fn, fn_arg, n);
}

static struct mbox_env
env_of(struct replay *r)
{
	return (struct mbox_env){ r, take_body, drop_body, keep_body, begin_in_place,
		end_in_place, spread };
}

/* ---- one job, on a worker ---- */

static struct sum
digest_of(const struct job *j)
{
	return sum_of_names(j->bytes.data, j->bytes.len);
}

static void
step(void *n, const char *from, const char *to)
{
	node_move_entries(n, from, to, false);
}

static void
apply_path(struct node *n, struct job *j, const struct batch *b,
	const struct mbox_env *env)
{
	char key[BATCH_MAX_PATH + 2];

	j->rc = mbox_apply_path(n->spool, b, env, &j->need, &j->fault);
	for (size_t i = 0; j->rc == 0 && i < b->n; i++) {
		const struct change *c = &b->changes[i];
		if (c->u.path.path == NULL)
			continue;
		if (c->kind == CHANGE_MOVE) {
			/* Its own entry, if it has one, goes along. */
			step(n, c->u.path.path, c->u.path.target);
			continue;
		}
		if (c->kind == CHANGE_SWAP) {
			node_swap_steps(c->u.path.path, c->u.path.target, step, n);
			continue;
		}
		snprintf(key, sizeof(key), "/%s", c->u.path.path);
		struct mboxent *e = mboxes_get(n->mboxes, key);
		if (e == NULL)
			continue;
		pthread_mutex_lock(&e->lock);
		e->known = c->kind != CHANGE_DELETE;
		e->owed = false;
		e->digest = digest_of(j);
		mboxes_dirty(n->mboxes, e);
		pthread_mutex_unlock(&e->lock);
	}
}

/* Batches that do not stand on the state before them. */
#define RESTATES \
	(BATCH_WHOLE | BATCH_DERIVED | BATCH_CREATE | BATCH_REMOVE | BATCH_PARTIAL)

/* Every row that a crash left is done again. The first ones of a mailbox read all of it, until one
 * has led to its sum: then this life knows what is there, as for rows that come new. */
static void
apply_mbox(struct node *n, struct job *j, const struct batch *b,
	const struct mbox_env *env)
{
	struct mboxent *e = mboxes_get(n->mboxes, j->dir);

	if (e == NULL || e->state == NULL) {
		j->rc = e == NULL ? ERR_NOMEM : ERR_MANGLED;
		return;
	}
	pthread_mutex_lock(&e->lock);
	enum mbox_apply_mode mode = j->redo || e->redo ? MBOX_REDO : MBOX_CHECK;
	bool known = j->redo && !e->redo && e->redone && (b->flags & RESTATES) == 0;
	FAULT("replay.before-apply");
	if (known)
		j->rc = mbox_apply(
			n->spool, b, MBOX_REDO_ON, env, e->state, &j->need, &j->fault);
	if (!known || (j->rc != 0 && j->rc != ERR_NEED)) {
		memset(&j->fault, 0, sizeof(j->fault));
		j->rc = mbox_apply(
			n->spool, b, mode, env, e->state, &j->need, &j->fault);
	}
	/* Nobody may be there to ask. If it is not what it was, the sum behind the last of the
	 * batches that come again will say so. */
	if (j->redo && (j->rc == ERR_MANGLED || j->rc == ERR_CHECKSUM) &&
		mend_index(n->spool, j->dir) == 0)
		j->rc = mbox_apply(
			n->spool, b, mode, env, e->state, &j->need, &j->fault);
	FAULT("replay.after-apply");
	if (j->rc == 0) {
		e->known = (b->flags & BATCH_REMOVE) == 0;
		e->redo = false;
		e->owed = false;
		e->redone = (b->flags & (BATCH_REMOVE | BATCH_PARTIAL)) == 0;
		e->prove &= (b->flags & BATCH_DERIVED) == 0;
		mboxes_dirty(n->mboxes, e);
		mboxes_identify(n->mboxes, e);
	}
	pthread_mutex_unlock(&e->lock);
}

void
replay_job_run(struct replay *r, struct job *j)
{
	const struct mbox_env env = env_of(r);
	struct batch b;

	memset(&j->fault, 0, sizeof(j->fault));
	memset(&j->need, 0, sizeof(j->need));
	if ((j->rc = batch_decode(j->bytes.data, j->bytes.len, &b)) != 0) {
		snprintf(j->fault.check, sizeof(j->fault.check), "batch");
		snprintf(j->fault.text, sizeof(j->fault.text),
			"a stored batch is damaged: %s", err_text(j->rc));
		return;
	}
	if (b.dir == NULL || b.dir[0] == '\0')
		apply_path(r->n, j, &b, &env);
	else
		apply_mbox(r->n, j, &b, &env);
	batch_fini(&b);
}

/* Does the folder hold a mailbox? One that a power cut tore while it was made is none: an index that is
 * empty, or full of zeros, which is no version that we ever wrote. */
static bool
is_mailbox(struct node *n, const char *dir, bool torn)
{
	struct mbox_fault fault;
	struct mbox_state state;
	int fd, rc = spool_file(n->spool, dir, "cyrus.index", O_PATH, 0, &fd);

	if (rc == 0) {
		close(fd);
		rc = torn ? mbox_load(n->spool, dir, NULL, &state, &fault) : 0;
	}
	return rc != ERR_NOTFOUND && rc != ERR_MANGLED && rc != ERR_CHECKSUM &&
	       rc != ERR_BUSY && rc != ERR_VERSION;
}

/* A path whose row cannot be applied, and that is there all the same: an earlier row put it there.
 * It is known again, so that the active side hears of it. Entry lock held. */
void
replay_job_find_path(struct node *n, struct mboxent *e)
{
	int fd;

	if (e->known || spool_file(n->spool, e->dir + 1, NULL, O_PATH | O_NOFOLLOW, 0,
				&fd) != 0)
		return;
	close(fd);
	e->digest = (struct sum){ 0, 0 };
	e->known = true;
	mboxes_dirty(n->mboxes, e);
}

/* A batch that was to make a mailbox and cannot: the folder and the bodies that it brought so far
 * are of no mailbox, and the active side may never name it again. Entry lock held. */
void
replay_job_unmake(struct replay *r, const char *dir, bool torn)
{
	const struct mbox_env env = env_of(r);
	struct node *n = r->n;
	struct mbox_need no_need;
	struct mbox_state none;
	struct mbox_fault fault;
	struct batch b;

	if (is_mailbox(n, dir, torn))
		return;
	memset(&none, 0, sizeof(none));
	memset(&fault, 0, sizeof(fault));
	batch_init(&b);
	b.flags = BATCH_REMOVE | BATCH_DERIVED;
	b.dir = dir;
	int rc = mbox_apply(n->spool, &b, MBOX_CHECK, &env, &none, &no_need, &fault);
	if (rc != 0)
		log_warn("what was made of a mailbox cannot be removed: dir=%s: %s",
			dir, err_text(rc));
	b.dir = "";
	batch_fini(&b);
}
