/*
 * replay_work.c - the workers, which take jobs in the order in which they became ready.
 *
 * Of one mailbox one batch is applied at a time, so in a first synchronisation a large one would keep
 * one worker busy and the others idle. The long part of it is a list of messages of which none
 * needs another: who is at it offers the list, and who has nothing to do takes a few of
 * it at a time, until a job comes.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/replay_priv.h"

#include <string.h>

enum { SHARE_FEW = 8 };

static bool
is_shared(const struct replay *r)
{
	return r->share.next < r->share.n;
}

/* Lock held; it is let go meanwhile. */
static void
do_few(struct replay *r)
{
	struct share *s = &r->share;
	size_t i = s->next, end = s->n - i < SHARE_FEW ? s->n : i + SHARE_FEW;

	s->next = end;
	pthread_mutex_unlock(&r->ready_lock);
	for (; i < end; i++)
		s->fn(s->arg, i);
	pthread_mutex_lock(&r->ready_lock);
}

/* Lock held. */
static void
help(struct replay *r)
{
	r->share.helpers++;
	while (is_shared(r) && r->ready == NULL)
		do_few(r);
	if (--r->share.helpers == 0)
		pthread_cond_signal(&r->share_left);
}

void
replay_work_share(
	struct replay *r, void (*fn)(void *arg, size_t i), void *arg, size_t n)
{
	pthread_mutex_lock(&r->ready_lock);
	bool mine = r->share.n == 0;
	if (mine) {
		r->share = (struct share){ fn, arg, 0, n, 0 };
		pthread_cond_broadcast(&r->ready_cond);
		while (is_shared(r))
			do_few(r);
		while (r->share.helpers > 0)
			pthread_cond_wait(&r->share_left, &r->ready_lock);
		r->share.next = r->share.n = 0;
	}
	pthread_mutex_unlock(&r->ready_lock);
	for (size_t i = 0; !mine && i < n; i++)
		fn(arg, i);
}

static void
carry_out(struct replay *r, struct job *j)
{
	replay_job_run(r, j);
	pthread_mutex_lock(&r->ended_lock);
	j->run_next = r->ended;
	r->ended = j;
	pthread_mutex_unlock(&r->ended_lock);
	loop_raise(r->n->loop, &r->ended_call);
}

static void *
worker_main(void *arg)
{
	struct replay *r = arg;

	pthread_mutex_lock(&r->ready_lock);
	for (;;) {
		while (r->ready == NULL && !is_shared(r) && !r->stop)
			pthread_cond_wait(&r->ready_cond, &r->ready_lock);
		if (r->stop)
			break;
		struct job *j = r->ready;
		if (j == NULL) {
			help(r);
			continue;
		}
		r->ready = j->run_next;
		if (r->ready == NULL)
			r->ready_end = &r->ready;
		pthread_mutex_unlock(&r->ready_lock);
		carry_out(r, j);
		pthread_mutex_lock(&r->ready_lock);
	}
	pthread_mutex_unlock(&r->ready_lock);
	return NULL;
}

void
replay_work_add(struct replay *r, struct job *j)
{
	j->run_next = NULL;
	pthread_mutex_lock(&r->ready_lock);
	*r->ready_end = j;
	r->ready_end = &j->run_next;
	pthread_mutex_unlock(&r->ready_lock);
	/* Now, or who wakes would only wait for the lock. */
	pthread_cond_signal(&r->ready_cond);
}

int
replay_work_open(struct replay *r, unsigned workers)
{
	r->ready_end = &r->ready;
	pthread_mutex_init(&r->ready_lock, NULL);
	pthread_cond_init(&r->ready_cond, NULL);
	pthread_cond_init(&r->share_left, NULL);
	for (unsigned i = 0; i < workers && i < REPLAY_WORKERS_MAX; i++) {
		int err = pthread_create(&r->workers[i], NULL, worker_main, r);
		if (err != 0) {
			log_err("cannot start a replay thread: %s", strerror(err));
			return ERR_NOMEM;
		}
		r->n_workers++;
	}
	return 0;
}

void
replay_work_close(struct replay *r)
{
	pthread_mutex_lock(&r->ready_lock);
	r->stop = true;
	pthread_cond_broadcast(&r->ready_cond);
	pthread_mutex_unlock(&r->ready_lock);
	for (unsigned i = 0; i < r->n_workers; i++)
		pthread_join(r->workers[i], NULL);
	pthread_mutex_destroy(&r->ready_lock);
	pthread_cond_destroy(&r->ready_cond);
	pthread_cond_destroy(&r->share_left);
}
