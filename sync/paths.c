/*
 * paths.c - from a path outside any mailbox, or the move of a folder, to a row in the out queue.
 *
 * A path is stated as it is. To look at it may take as long as its bytes take to read, so that
 * is done without its entry's lock: a mover needs that one. Of two who look at the same path at the same
 * time the later one states it, for he began behind whatever made the other one look.
 *
 * A move is stated between two looks at the names (moving.h): its row is queued and all states
 * in and below the folder have their new names before anybody may state something there.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/base/path.h"
#include "meta/place.h"
#include "meta/spool.h"
#include "sync/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
is_hidden(const char *path)
{
	struct place at = PLACE_AT_ROOT;
	char name[256];

	while (*path != '\0') {
		size_t len = strcspn(path, "/");
		if (len >= sizeof(name))
			return false;
		memcpy(name, path, len);
		name[len] = '\0';
		path += len;
		while (*path == '/')
			path++;
		at = place_step(at, name, *path != '\0' ? S_IFDIR : S_IFREG);
		if (at.kind == PLACE_STAGE || at.kind == PLACE_SYNC ||
			at.kind == PLACE_OWN || at.kind == PLACE_NEW)
			return true;
	}
	return false;
}

/* The change that states path as it is. ERR_NOTFOUND: it is gone. ERR_EXISTS: it is a mailbox.
 * known: its attributes as they are, or NULL. */
static int
describe(struct node *n, const char *path, const struct stat *known, struct batch *b,
	struct change **out)
{
	bool file = known != NULL && S_ISREG(known->st_mode);
	int how = file ? O_RDONLY | O_NONBLOCK : O_PATH;
	char target[BATCH_MAX_PATH];
	struct change *c = NULL;
	struct stat st;
	int fd = -1, probe, rc;

	if ((rc = spool_file(n->spool, path, NULL, how | O_NOFOLLOW, 0, &fd)) != 0)
		return rc;
	if (known != NULL) {
		st = *known;
	} else if (fstat(fd, &st) != 0) {
		rc = err_from_errno(errno);
		goto out;
	}
	rc = ERR_NOMEM;
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		if ((c = batch_add(b, CHANGE_FILE)) == NULL)
			goto out;
		if (!file) {
			close(fd);
			fd = -1;
			rc = spool_file(
				n->spool, path, NULL, O_RDONLY | O_NOFOLLOW, 0, &fd);
			if (rc != 0)
				goto out;
		}
		if ((rc = hash_sha1_fd(fd, c->u.path.sha1, &c->u.path.size)) != 0)
			goto out;
		break;
	case S_IFDIR:
		if (spool_file(n->spool, path, "cyrus.index", O_PATH, 0, &probe) == 0 &&
			(close(probe), !node_index_is_empty(n, path))) {
			rc = ERR_EXISTS; /* a mailbox says so itself */
			goto out;
		}
		if ((c = batch_add(b, CHANGE_DIR)) == NULL)
			goto out;
		break;
	case S_IFLNK: {
		ssize_t len = readlinkat(fd, "", target, sizeof(target) - 1);
		if (len < 0) {
			rc = err_from_errno(errno);
			goto out;
		}
		target[len] = '\0';
		if ((c = batch_add(b, CHANGE_SYMLINK)) == NULL)
			goto out;
		c->u.path.target = batch_keep(b, target, (size_t)len);
		break;
	}
	default:
		if ((c = batch_add(b, CHANGE_NODE)) == NULL)
			goto out;
		c->u.path.rdev = st.st_rdev;
		break;
	}
	c->u.path.path = batch_keep(b, path, strlen(path));
	c->u.path.uid = st.st_uid;
	c->u.path.gid = st.st_gid;
	c->u.path.mode = st.st_mode;
	if (!S_ISDIR(st.st_mode))
		c->u.path.mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
				  (uint64_t)st.st_mtim.tv_nsec;
	*out = c;
	rc = 0;
out:
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The digest that stands for a lone path: that of the bytes which state it. */
static struct sum
digest_of(const struct batch *b)
{
	struct buf bytes = BUF_INIT;
	struct sum s = { 0, 0 };

	if (batch_encode(b, &bytes) == 0)
		s = sum_of_names(bytes.data, bytes.len);
	buf_fini(&bytes);
	return s;
}

/* A mailbox's folder went without a word in its index: by an administrator's hand, or while the
 * mailbox was set aside. The folder's removal is its removal. 0: it was so. */
static int
remove_gone(struct node *n, const char *path, uint64_t names, sync_done_fn *done,
	void *done_arg)
{
	struct mboxent *e = mboxes_find(n->mboxes, path);
	struct batch b;
	int fd, rc;

	if (e == NULL)
		return ERR_EXISTS;
	uint64_t noted = notes_mark(n->notes, path);
	pthread_mutex_lock(&e->lock);
	rc = e->known ? spool_file(n->spool, path, NULL, O_PATH, 0, &fd) : ERR_EXISTS;
	if (rc == 0)
		close(fd);
	if (rc != ERR_NOTFOUND) {
		pthread_mutex_unlock(&e->lock);
		return ERR_EXISTS;
	}
	if (names != 0 && !moving_enter(n->moving, names, path)) {
		pthread_mutex_unlock(&e->lock);
		return ERR_NOTFOUND;
	}
	batch_init(&b);
	b.flags = BATCH_REMOVE | BATCH_DERIVED;
	b.dir = e->dir;
	b.uniqueid = e->state->uniqueid;
	e->known = false;
	e->aside = false;
	rc = node_enqueue(n, e, &b, noted, done, done_arg);
	if (names != 0)
		moving_leave(n->moving);
	if (rc != 0) {
		e->known = true;
		rc = ERR_EXISTS;
	}
	pthread_mutex_unlock(&e->lock);
	b.dir = b.uniqueid = "";
	batch_fini(&b);
	return rc;
}

/* What describe found, against what is known of the path. Entry lock held. */
static int
state_path(struct node *n, struct mboxent *e, const char *path, int found,
	struct batch *b, uint64_t noted, sync_done_fn *done, void *done_arg)
{
	struct change *c;

	if (found == 0) {
		struct sum now = digest_of(b);
		if (e->known && sum_eq(now, e->digest)) {
			node_enqueue_nothing(n, e->dir, path, noted, done, done_arg);
			return 0;
		}
		e->digest = now;
		e->known = true;
		return node_enqueue(n, e, b, noted, done, done_arg);
	}
	if (found == ERR_NOTFOUND &&
		(e->known || mboxes_find(n->mboxes, path) != NULL)) {
		e->known = false;
		if ((c = batch_add(b, CHANGE_DELETE)) == NULL)
			return ERR_NOMEM;
		c->u.path.path = batch_keep(b, path, strlen(path));
		return node_enqueue(n, e, b, noted, done, done_arg);
	}
	if (found != ERR_NOTFOUND && found != ERR_EXISTS)
		log_warn("a path cannot be read and is not replicated: path=%s: %s",
			path, err_text(found));
	/* A mailbox that is not journaled yet has need of its note. */
	struct mboxent *m = mboxes_find(n->mboxes, path);
	bool settled =
		found == ERR_NOTFOUND || (found == ERR_EXISTS && m != NULL && m->known);
	node_enqueue_nothing(n, e->dir, settled ? path : NULL, noted, done, done_arg);
	return 0;
}

int
node_path_now(struct node *n, const char *path, uint64_t names, sync_done_fn *done,
	void *done_arg)
{
	char key[BATCH_MAX_PATH + 2];
	struct mboxent *e = NULL;
	struct change *c = NULL;
	struct batch b;
	bool hidden = is_hidden(path);
	int rc;

	if (!hidden && (rc = remove_gone(n, path, names, done, done_arg)) != ERR_EXISTS)
		return rc;
	snprintf(key, sizeof(key), "/%s", path);
	if (hidden || (e = mboxes_get(n->mboxes, key)) == NULL) {
		node_enqueue_nothing(n, key, NULL, 0, done, done_arg);
		return 0;
	}
	pthread_mutex_lock(&e->lock);
	uint32_t turn = ++e->looked;
	uint64_t noted = notes_mark(n->notes, path);
	pthread_mutex_unlock(&e->lock);
	batch_init(&b);
	rc = describe(n, path, NULL, &b, &c);
	pthread_mutex_lock(&e->lock);
	if (names != 0 && !moving_enter(n->moving, names, path)) {
		rc = ERR_NOTFOUND;
		goto out;
	}
	if (turn != e->looked)
		node_enqueue_nothing(n, key, NULL, 0, done, done_arg);
	else if ((rc = state_path(n, e, path, rc, &b, noted, done, done_arg)) != 0) {
		log_err("a path could not be journaled: path=%s: %s", path,
			err_text(rc));
		node_enqueue_nothing(n, key, NULL, 0, done, done_arg);
	}
	if (names != 0)
		moving_leave(n->moving);
	rc = 0;
out:
	pthread_mutex_unlock(&e->lock);
	batch_fini(&b);
	return rc;
}

int
sync_path(struct sync *s, const char *path, uint64_t names, sync_done_fn *done,
	void *done_arg)
{
	return node_path_now(&s->node, path, names, done, done_arg);
}

uint64_t
sync_names(struct sync *s)
{
	return moving_ticket(s->node.moving);
}

void
sync_names_wait(struct sync *s, const char *path)
{
	moving_wait(s->node.moving, path);
}

bool
sync_names_enter(struct sync *s, uint64_t names, const char *path)
{
	return moving_enter(s->node.moving, names, path);
}

void
sync_names_leave(struct sync *s)
{
	moving_leave(s->node.moving);
}

int
node_path_adopt(
	struct node *n, const char *path, const struct stat *st, struct mboxent **out)
{
	char key[BATCH_MAX_PATH + 2];
	struct change *c = NULL;
	struct batch b;

	*out = NULL;
	snprintf(key, sizeof(key), "/%s", path);
	if (is_hidden(path))
		return 0;
	batch_init(&b);
	int rc = describe(n, path, st, &b, &c);
	struct mboxent *e = rc == 0 ? mboxes_get(n->mboxes, key) : NULL;
	if (e != NULL) {
		e->digest = digest_of(&b);
		e->known = true;
		*out = e;
	} else if (rc == 0) {
		rc = ERR_NOMEM;
	} else {
		if (rc != ERR_NOTFOUND && rc != ERR_EXISTS)
			log_warn("a path cannot be read and is not replicated: "
				 "path=%s: %s",
				path, err_text(rc));
		rc = 0;
	}
	batch_fini(&b);
	return rc;
}

/* The state of from goes, that of e (locked) comes. */
static void
queue_move(struct node *n, const char *from, const struct mboxent *e)
{
	struct outq_item *gone = outq_item(from), *come = outq_item(e->dir);

	if (gone != NULL) {
		gone->what = OUTQ_STATE_DROP;
		outq_push(n->outq, gone);
	}
	if (come != NULL && mboxes_encode(e, &come->state) == 0) {
		come->what = OUTQ_STATE_PUT;
		snprintf(come->uniqueid, sizeof(come->uniqueid), "%s", mboxes_id(e));
		outq_push(n->outq, come);
	} else {
		outq_item_free(come);
	}
}

void
node_move_entries(struct node *n, const char *from, const char *to, bool journal)
{
	size_t count;
	struct mboxent **list = mboxes_list(n->mboxes, &count);
	char key[BATCH_MAX_PATH + 2];
	const char *rest;
	uint64_t moved_now = ++n->moves_begun;
	static const struct mbox_fault moved = { .check = "moved",
		.text = "it was set aside under another name, and is looked at again" };

	for (size_t i = 0; list != NULL && i < count; i++) {
		struct mboxent *old = list[i];
		bool path = mboxes_is_path(old->dir);
		if ((rest = path_rest(old->dir + path, from)) == NULL)
			continue;
		snprintf(key, sizeof(key), "%s%s%s", path ? "/" : "", to, rest);
		struct mboxent *e = mboxes_get(n->mboxes, key);
		if (e == NULL || !(old->known || old->repairing || old->owed ||
					 (old->aside && !journal)))
			continue;
		pthread_mutex_lock(&old->lock);
		struct mbox_state st;
		struct sum digest = old->digest;
		if (!path)
			st = *old->state;
		bool repairing = old->repairing || old->owed, redo = old->redo,
		     prove = old->prove, aside = old->aside, known = old->known,
		     more = aside && old->has_more && !journal;
		unsigned repairs = old->repairs;
		old->known = false;
		ask_mark(n, old, false);
		old->owed = false;
		old->redo = old->prove = false;
		old->aside = old->has_more = false;
		old->repairs = 0;
		if (!journal)
			mboxes_dirty(n->mboxes, old);
		mboxes_identify(n->mboxes, old);
		pthread_mutex_unlock(&old->lock);
		pthread_mutex_lock(&e->lock);
		/* What was asked for under the old name is not answered any more. */
		if (repairing || (aside && !journal && !more))
			ask_mark(n, e, true);
		if (more)
			e->aside = e->has_more = true;
		e->redo |= redo;
		e->prove |= prove;
		if (repairs > e->repairs)
			e->repairs = repairs;
		if (!known) {
			pthread_mutex_unlock(&e->lock);
			continue;
		}
		if (!path)
			*e->state = st;
		e->digest = digest;
		e->known = true;
		if (!journal)
			mboxes_dirty(n->mboxes, e);
		e->moved = moved_now;
		mboxes_identify(n->mboxes, e);
		if (journal)
			queue_move(n, old->dir, e);
		if (journal && aside)
			node_set_aside(n, e, &moved, ERR_DIVERGED);
		pthread_mutex_unlock(&e->lock);
	}
	n->moves_ended++;
	free(list);
}

/* Every row so far, and every one that is queued, has the old name. */
static void
follow(void *arg, const char *from, const char *to)
{
	struct node *n = arg;

	if (moves_add(n->moves,
		    n->journal_last + outq_last(n->outq) - outq_settled_upto(n->outq),
		    from, to) != 0)
		log_warn("out of memory; what of it is under way is compared: path=%s",
			to);
	refs_move(n->refs, from, to);
	node_move_entries(n, from, to, true);
}

/* The row of a move or swap; the notes of path end with it. */
static void
queue_row(struct node *n, const char *path, struct batch *b)
{
	struct outq_item *it = outq_item("");

	if (it == NULL)
		return;
	it->what = OUTQ_STATE_NONE;
	it->note = strdup(path);
	it->noted = it->note != NULL ? notes_mark(n->notes, path) : 0;
	if (batch_encode(b, &it->bytes) == 0)
		outq_push(n->outq, it);
	else
		outq_item_free(it);
}

void
node_move(struct node *n, const char *from, const char *to)
{
	struct change *c;
	struct batch b;

	follow(n, from, to);
	batch_init(&b);
	if ((c = batch_add(&b, CHANGE_MOVE)) != NULL) {
		c->u.path.path = batch_keep(&b, from, strlen(from));
		c->u.path.target = batch_keep(&b, to, strlen(to));
		queue_row(n, from, &b);
	}
	batch_fini(&b);
	/* The folder's own entry, if it never was a mailbox. */
	node_path_now(n, to, 0, NULL, NULL);
}

/* By way of a name that nothing replicated can have. */
void
node_swap_steps(const char *one, const char *two, node_step_fn *fn, void *arg)
{
	static const char between[] = ".twinspool/between";

	fn(arg, one, between);
	fn(arg, two, one);
	fn(arg, between, two);
}

void
node_swap(struct node *n, const char *one, const char *two)
{
	struct change *c;
	struct batch b;

	node_swap_steps(one, two, follow, n);
	batch_init(&b);
	if ((c = batch_add(&b, CHANGE_SWAP)) != NULL) {
		c->u.path.path = batch_keep(&b, one, strlen(one));
		c->u.path.target = batch_keep(&b, two, strlen(two));
		c->u.path.rdev = clock_wall_ns();
		queue_row(n, one, &b);
	}
	batch_fini(&b);
	node_path_now(n, one, 0, NULL, NULL);
	node_path_now(n, two, 0, NULL, NULL);
}

int
sync_move_begin(struct sync *s, uint64_t names, const char *from, const char *to,
	struct sync_moving **out)
{
	struct moving_one *one;
	int rc = moving_begin(s->node.moving, names, from, to, &one);

	if (rc != 0)
		return rc;
	/* Who dies before the move's row, or before that of a path in it, finds that by either name.
	 * Nobody notes below these names now (sync_note). */
	if ((rc = notes_copy(s->node.notes, from, to)) != 0 ||
		(rc = notes_copy(s->node.notes, to, from)) != 0) {
		moving_end(s->node.moving, one);
		return rc;
	}
	*out = (struct sync_moving *)one;
	return 0;
}

struct noted_below {
	const struct moving_one *one;
	int (*fn)(void *arg, const char *path);
	void *arg;
};

static int
is_noted_below(void *arg, const char *path)
{
	struct noted_below *b = arg;
	const char *rest = path_rest(path, moving_from(b->one));

	if (rest == NULL)
		rest = path_rest(path, moving_to(b->one));
	if (rest != NULL && rest[0] != '\0')
		return b->fn(b->arg, path);
	return 0;
}

int
sync_move_noted(struct sync *s, struct sync_moving *m,
	int (*fn)(void *arg, const char *path), void *arg)
{
	struct noted_below b = { (const struct moving_one *)m, fn, arg };

	return notes_walk(s->node.notes, is_noted_below, &b);
}

void
sync_move_end(struct sync *s, struct sync_moving *m, enum sync_moved done)
{
	struct moving_one *one = (struct moving_one *)m;
	struct node *n = &s->node;

	FAULT("move.done");
	if (done == SYNC_MOVED)
		node_move(n, moving_from(one), moving_to(one));
	else if (done == SYNC_SWAPPED)
		node_swap(n, moving_from(one), moving_to(one));
	/* What was noted and did not happen has had its time once it is looked at. */
	else
		for (int i = 0; i < 2; i++)
			node_path_now(n, i ? moving_to(one) : moving_from(one), 0, NULL,
				NULL);
	moving_end(n->moving, one);
}

static int
note(struct node *n, const char *path, uint64_t names, bool leaving)
{
	int rc;

	if (is_hidden(path))
		return 0;
	rc = leaving ? notes_add_leaving(n->notes, path) : notes_add(n->notes, path);
	if (rc != 0 || names == 0)
		return rc;
	if (moving_enter(n->moving, names, path)) {
		moving_leave(n->moving);
		return 0;
	}
	notes_clear(n->notes, path);
	moving_wait(n->moving, path);
	return ERR_NOTFOUND;
}

int
sync_note(struct sync *s, const char *path, uint64_t names)
{
	return note(&s->node, path, names, false);
}

int
sync_note_leaving(struct sync *s, const char *path, uint64_t names)
{
	return note(&s->node, path, names, true);
}
