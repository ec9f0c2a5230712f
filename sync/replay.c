/*
 * A row is read from the inbox into a struct job and stays one until it is settled:
 *
 *   QUEUED   another job of its mailbox is before it
 *   BARRED   it removes, renames or is a path: waits until all before it are settled. Also one
 *            whose referenced body may still come from a row before it; and all that are behind a
 *            path or a rename, for they may speak of its names
 *   RUNNING  with a worker
 *   NEEDS    waits for a body from the peer
 *   STALLED  the disk is full, or the like: tried again every second
 *   MOVED    a folder has its new name: nothing goes on until that is recorded
 *
 * What was done and not recorded is done again after a crash, under the names that the rows give.
 * So a folder is moved only when all before it is recorded, and nothing behind it runs until the
 * move is: or the old name would be made again, without what was in it.
 *
 * At most JOBS_MAX rows or JOBS_BYTES are in memory; the inbox has the rest. "Settled" is the
 * inbox's notion: DONE, APPLIED or HELD.
 */
#include "sync/replay_priv.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/spool.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	JOBS_MAX = 4096,
	JOBS_BYTES = 64 << 20,
	RECORD_MAX_MS = 5000,
	STALL_MS = 1000,
	REPAIRS_MAX = 20 /* in a row for one mailbox, none of which helped */
};

/* ---- the order of things, on the peer thread ---- */

static unsigned
lane_of(const char *dir)
{
	uint32_t h = 2166136261u;

	for (; *dir != '\0'; dir++)
		h = (h ^ (uint8_t)*dir) * 16777619u;
	return h % REPLAY_LANES;
}

static void
run(struct replay *r, struct job *j)
{
	j->state = JOB_RUNNING;
	r->n_running++;
	replay_work_add(r, j);
}

/* Is there a path or a rename before it that is not settled? */
static bool
is_fenced(const struct replay *r, const struct job *j)
{
	if (r->fences == 0)
		return false;
	for (const struct job *k = r->first; k != j; k = k->next)
		if (k->fence)
			return true;
	return false;
}

/* Is all settled that a crash left? Whoever wants to know hears of it before anything else runs. */
static bool
is_redone(struct replay *r)
{
	struct pos behind = r->redo_upto;

	behind.seq++;
	if (r->redone || (r->redo && !inbox_settled_before(r->n->inbox, behind)))
		return r->redone;
	r->redone = true;
	if (r->n->hooks.redone != NULL)
		r->n->hooks.redone(r->n->hooks.arg);
	return true;
}

/* May it go, as far as the rows before it are concerned? */
static bool
is_free(struct replay *r, const struct job *j)
{
	struct pos before = j->pos;

	if (j->barrier && !inbox_settled_before(r->n->inbox, j->pos))
		return false;
	/* What is done again looks at what is there; the others trust it. */
	if (!j->redo && !is_redone(r))
		return false;
	if (j->target == NULL)
		return true;
	before.seq--;
	return inbox_recorded_upto(r->n->inbox, before);
}

static void
start(struct replay *r, struct job *j)
{
	if (!is_free(r, j) || is_fenced(r, j))
		j->state = JOB_BARRED;
	else
		run(r, j);
}

/* Barred jobs whose turn has come. The first job is always free to go. */
static void
lift(struct replay *r)
{
	for (struct job *j = r->first; j != NULL; j = j->next) {
		if (j->state == JOB_BARRED && is_free(r, j))
			run(r, j);
		if (j->fence)
			break;
	}
}

static int
load_row(void *arg, const struct inbox_item *item, enum inbox_state state)
{
	struct replay *r = arg;
	struct job *j = calloc(1, sizeof(*j));
	struct batch b;

	(void)state;
	if (j == NULL || (j->dir = strdup(item->dir)) == NULL) {
		free(j);
		return ERR_NOMEM;
	}
	buf_put(&j->bytes, item->bytes, item->n);
	if (buf_ok(&j->bytes) != 0) {
		free(j->dir);
		free(j);
		return ERR_NOMEM;
	}
	j->pos = item->pos;
	j->redo = r->redo && pos_cmp(j->pos, r->redo_upto) <= 0;
	j->barrier = j->fence = item->dir[0] == '\0';
	if (batch_decode(item->bytes, item->n, &b) == 0) {
		if (j->fence && b.n > 0 && b.changes[0].u.path.path != NULL &&
			asprintf(&j->path, "/%s", b.changes[0].u.path.path) < 0)
			j->path = NULL;
		j->deletes = j->path != NULL && b.changes[0].kind == CHANGE_DELETE;
		j->swaps = j->fence && b.n > 0 && b.changes[0].kind == CHANGE_SWAP;
		if (j->fence && b.n > 0 &&
			(j->swaps || b.changes[0].kind == CHANGE_MOVE) &&
			b.changes[0].u.path.target != NULL)
			j->target = strdup(b.changes[0].u.path.target);
		j->fence |= b.from_dir != NULL;
		j->barrier |= batch_removes(&b) || b.from_dir != NULL;
		batch_fini(&b);
	}
	*r->end = j;
	r->end = &j->next;
	r->n_jobs++;
	r->fences += j->fence;
	r->bytes += item->n;
	r->loaded = item->pos;
	return 0;
}

static void
load(struct replay *r)
{
	struct job **at = r->end;

	if (!r->more || r->n_jobs >= JOBS_MAX || r->bytes >= JOBS_BYTES)
		return;
	struct pos before = r->loaded;
	int rc = inbox_walk_pending(r->n->inbox, r->loaded, 4 << 20, load_row, r);
	if (rc != 0)
		log_err("the inbox cannot be read: %s", err_text(rc));
	if (rc != 0 || pos_cmp(before, r->loaded) == 0)
		r->more = false;
	for (struct job *j = *at; j != NULL; j = j->next) {
		struct lane *l = &r->lanes[lane_of(j->dir)];
		bool head = l->first == NULL;
		if (head)
			l->end = &l->first;
		*l->end = j;
		l->end = &j->lane_next;
		j->state = JOB_QUEUED;
		if (head)
			start(r, j);
	}
}

static void
job_free(struct job *j)
{
	buf_fini(&j->bytes);
	free(j->dir);
	free(j->path);
	free(j->target);
	free(j);
}

/* The entry that a job is about. */
static const char *
key_of(const struct job *j)
{
	return j->path != NULL ? j->path : j->dir;
}

/* Takes a settled job out; the next of its lane may go. */
static void
retire(struct replay *r, struct job *j)
{
	struct lane *l = &r->lanes[lane_of(j->dir)];
	struct job **at = &r->first;

	l->first = j->lane_next;
	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	if (r->end == &j->next)
		r->end = at;
	r->n_jobs--;
	r->fences -= j->fence;
	r->bytes -= j->bytes.len;
	job_free(j);
	if (l->first != NULL)
		start(r, l->first);
}

static void
stall(struct replay *r, struct job *j)
{
	char text[sizeof(r->stalled) + 200];

	snprintf(text, sizeof(text), "%s%s%s; nothing is lost, it goes on by itself",
		j->rc == ERR_FULL ? "the disk of this spool is full" : err_text(j->rc),
		j->fault.text[0] ? ": " : "", j->fault.text);
	text[sizeof(r->stalled) - 1] = '\0';
	if (strcmp(text, r->stalled) != 0)
		log_err("replay waits: dir=%s: %s", key_of(j), text);
	memcpy(r->stalled, text, sizeof(r->stalled));
	j->state = JOB_STALLED;
	r->next_stall_ms = clock_ms() + STALL_MS;
}

static void
settle(struct replay *r, struct job *j)
{
	int rc = inbox_done(r->n->inbox, j->pos);

	if (rc != 0 && rc != ERR_NOTFOUND)
		log_err("the inbox cannot be updated: %s", err_text(rc));
	r->unrecorded = true;
	r->applied++;
	if (j->target != NULL)
		j->state = JOB_MOVED;
	else
		retire(r, j);
}

/* Its rows are HELD now: their jobs go without a trace. */
void
replay_forget(struct replay *r, const char *dir)
{
	struct lane *l = &r->lanes[lane_of(dir)];

	for (struct job *k = l->first, *next; k != NULL; k = next) {
		next = k->lane_next;
		if (strcmp(k->dir, dir) == 0 && k->state != JOB_RUNNING &&
			k == l->first)
			retire(r, k);
	}
}

static void
set_aside(struct replay *r, struct job *j)
{
	struct node *n = r->n;
	struct mboxent *e = mboxes_get(n->mboxes, key_of(j));
	char text[sizeof(j->fault.text) + 160];
	struct inbox_quarantine q = { key_of(j), j->fault.uid,
		j->fault.check[0] ? j->fault.check : "replay", text, 0, j->pos };

	snprintf(text, sizeof(text),
		"%s; see that the active side's is sound, then remove this one from "
		"the "
		"standby's spool: it is fetched anew",
		j->fault.text[0] ? j->fault.text : err_text(j->rc));

	log_err("mailbox set aside: dir=%s uid=%" PRIu32 " check=%s: %s", q.dir, q.uid,
		q.check, q.text);
	if (e != NULL) {
		pthread_mutex_lock(&e->lock);
		e->aside = true;
		e->has_more = j->rc == ERR_MORE;
		e->redo = true;
		pthread_mutex_unlock(&e->lock);
	}
	int rc = inbox_quarantine_put(n->inbox, &q);
	node_count_asides(n);
	if (rc != 0) {
		stall(r, j);
		return;
	}
	if (e != NULL)
		ask_end(n, e);
	struct wire_quarantine m = { q.dir, q.uid, q.check, q.text };
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].session != NULL && n->peers[i].feeding)
			session_send(n->peers[i].session, WIRE_QUARANTINE, &m);
	if (j->path != NULL) {
		settle(r, j); /* nothing else waits for it */
		return;
	}
	char *dir = strdup(j->dir);
	retire(r, j);
	if (dir != NULL)
		replay_forget(r, dir);
	free(dir);
}

/* Is it a whole repair, or the last piece of one? */
static bool
is_answer(const struct job *j)
{
	struct batch b;
	bool answer = false;

	if (j->path == NULL && batch_peek(j->bytes.data, j->bytes.len, &b) == 0) {
		answer = (b.flags & BATCH_DERIVED) != 0 &&
			 (b.flags & BATCH_PARTIAL) == 0;
		batch_fini(&b);
	}
	return answer;
}

/* A mailbox that does not match is compared; rows until then cannot help and are skipped, for
 * the repair states what they say. */
static void
ask_repair(struct replay *r, struct job *j)
{
	struct node *n = r->n;
	struct mboxent *e = mboxes_get(n->mboxes, key_of(j));
	bool first = false, hopeless = false;

	if (j->target != NULL || j->deletes) {
		log_warn("a folder differs, asking for what is in it: path=%s "
			 "seq=%" PRIu64 ": %s",
			j->path + 1, j->pos.seq,
			j->fault.text[0] ? j->fault.text : err_text(j->rc));
		ask_folder(n, j->path + 1, j->target);
		if (j->swaps)
			ask_folder(n, j->target, j->path + 1);
		settle(r, j);
		return;
	}
	if (e != NULL) {
		pthread_mutex_lock(&e->lock);
		/* An answer that does not fit either is asked for anew, a few times. */
		first = !e->repairing || is_answer(j);
		ask_mark(n, e, true);
		e->redo |= j->rc != ERR_DIVERGED || j->half;
		e->prove |= j->redo;
		if (j->path != NULL)
			replay_job_find_path(n, e);
		else if (!e->known)
			replay_job_unmake(r, j->dir, j->redo);
		hopeless = first && ++e->repairs > REPAIRS_MAX;
		pthread_mutex_unlock(&e->lock);
	}
	if (hopeless || e == NULL) {
		set_aside(r, j);
		return;
	}
	ask_open(n, e, j->pos.seq);
	if (first) {
		log_warn("mailbox differs, asking for it: dir=%s seq=%" PRIu64 ": %s",
			key_of(j), j->pos.seq, err_text(j->rc));
		ask_mailbox(n, key_of(j));
	}
	settle(r, j);
}

static void
need(struct replay *r, struct job *j)
{
	j->half = true;
	if (!inbox_settled_before(r->n->inbox, j->pos)) {
		/* The body may come with a row before this one. */
		j->state = JOB_BARRED;
		j->barrier = true;
		return;
	}
	if (memcmp(j->asked_for, j->need.guid, SHA1_LEN) != 0)
		j->needs = 0;
	memcpy(j->asked_for, j->need.guid, SHA1_LEN);
	if (++j->needs > 2) {
		/* It came and could not be kept, or did not come: not again at once. */
		j->needs = 0;
		j->rc = ERR_NEED;
		stall(r, j);
		return;
	}
	j->state = JOB_NEEDS;
	recv_need(r->n, &j->need, j->dir);
}

/* A batch done again on a mailbox that was further on than it: only the last one that is done
 * again can say what the sum is. */
static bool
is_overtaken(const struct job *j)
{
	if (!j->redo || (j->rc != ERR_SUM && j->rc != ERR_DIVERGED))
		return false;
	for (const struct job *k = j->lane_next; k != NULL; k = k->lane_next)
		if (k->redo && strcmp(k->dir, j->dir) == 0)
			return true;
	return false;
}

/* Files of this side that do not parse, or bodies that are not what they were: where rows were under
 * way when the power went, that is what it leaves of them. All of the mailbox is asked for. */
static bool
is_torn(const struct replay *r, const struct job *j)
{
	struct mboxent *e = mboxes_find(r->n->mboxes, key_of(j));

	if (j->path != NULL || e == NULL || j->rc == ERR_MORE ||
		err_consequence(j->rc) != ERR_DO_QUARANTINE)
		return false;
	pthread_mutex_lock(&e->lock);
	bool redo = j->redo || e->redo;
	pthread_mutex_unlock(&e->lock);
	return redo;
}

/* What the peer thread knows of a folder follows its new name. */
static void
step(void *node, const char *from, const char *to)
{
	asides_move(node, from, to);
	ask_open_moved(node, from, to);
}

static void
ended(struct replay *r, struct job *j)
{
	if (is_overtaken(j)) {
		settle(r, j);
		return;
	}
	switch (j->rc) {
	case 0:
		if (j->path != NULL || is_answer(j))
			ask_repaired(r->n, key_of(j));
		if (j->target != NULL) {
			if (j->swaps)
				node_swap_steps(j->path + 1, j->target, step, r->n);
			else
				step(r->n, j->path + 1, j->target);
			ask_moved(r->n, j->target);
			if (j->swaps)
				ask_moved(r->n, j->path + 1);
		}
		r->stalled[0] = '\0';
		settle(r, j);
		return;
	case ERR_NEED:
		need(r, j);
		return;
	default:
		break;
	}
	switch (err_consequence(j->rc)) {
	case ERR_DO_RETRY:
		stall(r, j);
		break;
	case ERR_DO_REPAIR:
		ask_repair(r, j);
		break;
	default:
		if (is_torn(r, j))
			ask_repair(r, j);
		else
			set_aside(r, j);
		break;
	}
}

/* What may go on by now goes on; a folder's move does not wait for the next tick. */
static void
go_on(struct replay *r)
{
	if (r->recording && r->synced)
		replay_record_finish(r);
	while (r->first != NULL && r->first->state == JOB_MOVED &&
		inbox_recorded_upto(r->n->inbox, r->first->pos))
		retire(r, r->first);
	(void)is_redone(r);
	lift(r);
	load(r);
	if (r->first != NULL && r->first->target != NULL && clock_ms() >= r->hold_ms &&
		(r->first->state == JOB_MOVED || r->first->state == JOB_BARRED))
		replay_record_begin(r);
}

static void
on_ended(void *arg)
{
	struct replay *r = arg;
	struct job *list, *order = NULL;

	pthread_mutex_lock(&r->ended_lock);
	list = r->ended;
	r->ended = NULL;
	pthread_mutex_unlock(&r->ended_lock);
	while (list != NULL) {
		struct job *next = list->run_next;
		list->run_next = order;
		order = list;
		list = next;
	}
	while (order != NULL) {
		struct job *next = order->run_next;
		r->n_running--;
		ended(r, order);
		order = next;
	}
	go_on(r);
}

/* A disk that is slow to sync is not kept busy with it. Nor is any while rows are under way, as long as
 * nobody waits for what is recorded: writing back takes the disk, and a good part of a core, from
 * what makes the next files. */
static uint64_t
record_wait(const struct replay *r)
{
	uint64_t wait = REPLAY_RECORD_MS + 3 * r->sync_ms;

	if (r->n_running > 0 && !flush_is_wanted(r->n))
		return RECORD_MAX_MS;
	return wait < RECORD_MAX_MS ? wait : RECORD_MAX_MS;
}

void
replay_tick(struct replay *r)
{
	uint64_t now = clock_ms();

	if (r == NULL)
		return;
	if (now - r->recorded_ms >= record_wait(r)) {
		r->recorded_ms = now;
		replay_record_begin(r);
	}
	if (now >= r->next_stall_ms)
		for (struct job *j = r->first; j != NULL; j = j->next)
			if (j->state == JOB_STALLED)
				run(r, j);
	go_on(r);
}
/* ---- from outside ---- */

int
replay_open(struct node *n, unsigned workers, bool redo, struct replay **out)
{
	struct replay *r = calloc(1, sizeof(*r));
	struct inbox_facts f;
	int rc;

	if (r == NULL)
		return ERR_NOMEM;
	r->n = n;
	r->end = &r->first;
	r->recorded_ms = clock_ms();
	r->redo = redo;
	inbox_facts(n->inbox, &f);
	r->redo_upto = f.received;
	r->ended_call = (struct loop_call){ .fn = on_ended, .arg = r };
	pthread_mutex_init(&r->ended_lock, NULL);
	if ((rc = replay_work_open(r, workers)) != 0) {
		replay_close(r);
		return rc;
	}
	r->more = true;
	(void)is_redone(r);
	load(r);
	*out = r;
	return 0;
}

bool
replay_close(struct replay *r)
{
	struct inbox_facts f;
	bool redone;

	if (r == NULL)
		return true;
	replay_work_close(r);
	if (r->recording)
		replay_record_finish(r);
	for (struct job *j = r->ended; j != NULL; j = j->run_next)
		if (j->rc == 0 && inbox_done(r->n->inbox, j->pos) == 0)
			r->unrecorded = true;
	loop_call_cancel(r->n->loop, &r->ended_call);
	if (r->unrecorded)
		replay_record_now(r);
	for (struct job *j = r->first, *next; j != NULL; j = next) {
		next = j->next;
		job_free(j);
	}
	inbox_facts(r->n->inbox, &f);
	redone = !r->redo || pos_cmp(f.applied, r->redo_upto) >= 0;
	redone &= f.done_rows == 0;
	pthread_mutex_destroy(&r->ended_lock);
	free(r);
	return redone;
}

void
replay_more(struct replay *r)
{
	if (r == NULL)
		return;
	r->more = true;
	load(r);
}

void
replay_rebased(struct replay *r)
{
	if (r == NULL)
		return;
	r->loaded = POS_NONE;
	r->redo = false;
}

void
replay_body(struct replay *r, const uint8_t guid[SHA1_LEN], bool came)
{
	if (r == NULL)
		return;
	for (struct job *j = r->first, *next; j != NULL; j = next) {
		next = j->next;
		if (j->state != JOB_NEEDS || memcmp(j->need.guid, guid, SHA1_LEN) != 0)
			continue;
		if (came) {
			run(r, j);
		} else {
			/* The sender has it no more: what the mailbox is now, it will state. */
			j->rc = ERR_DIVERGED;
			ask_repair(r, j);
			break;
		}
	}
}

void
replay_ask_again(struct replay *r)
{
	if (r == NULL)
		return;
	for (struct job *j = r->first; j != NULL; j = j->next)
		if (j->state == JOB_NEEDS)
			recv_need(r->n, &j->need, j->dir);
}

bool
replay_idle(const struct replay *r)
{
	bool done = r == NULL || r->first == NULL ||
		    (r->n_jobs == 1 && r->first->state == JOB_MOVED);

	return done && (r == NULL || !r->more);
}

bool
replay_busy(const struct replay *r)
{
	return r != NULL && r->n_running > 0;
}

void
replay_facts(const struct replay *r, struct replay_facts *out)
{
	*out = (struct replay_facts){ 0, 0, "" };
	if (r == NULL)
		return;
	out->waiting = r->n_jobs;
	out->applied = r->applied;
	out->stalled = r->stalled;
}
