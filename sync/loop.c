/*
 * loop.c - how a turn runs.
 *
 * Descriptors and hooks are circular lists with a cursor, so that a callback may remove any of
 * them, itself included: whoever unlinks the element under the cursor moves the cursor on.
 * Descriptors added during a turn are polled in the next.
 *
 * Timers are one list sorted by due time; there are a few per session. Those set while timers
 * run wait for the next turn, so a timer of 0 ms cannot starve the descriptors.
 *
 * Raised calls lie under the mutex. The eventfd is written only when the list goes from empty to
 * not empty, so a burst of them costs one system call.
 */
#include "sync/loop.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct loop {
	struct loop_fd *fds, *fd_cursor;
	size_t n_fds;
	struct pollfd *polled;
	size_t polled_cap;
	struct loop_timer *timers;
	struct loop_hook *hooks, *hook_cursor;
	bool hooks_again;
	int wake_fd;
	bool stopped; /* under lock */

	pthread_mutex_t lock;
	struct loop_call *calls, **calls_tail;
};

int
loop_open(struct loop **out)
{
	struct loop *l = calloc(1, sizeof(*l));

	*out = NULL;
	if (l == NULL)
		return ERR_NOMEM;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0) {
		log_err("loop: eventfd failed: error=\"%s\"", strerror(errno));
		free(l);
		return ERR_IO;
	}
	pthread_mutex_init(&l->lock, NULL);
	l->calls_tail = &l->calls;
	*out = l;
	return 0;
}

void
loop_close(struct loop *l)
{
	if (l == NULL)
		return;
	close(l->wake_fd);
	pthread_mutex_destroy(&l->lock);
	free(l->polled);
	free(l);
}

static void
wake(struct loop *l)
{
	uint64_t one = 1;

	while (write(l->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		continue;
}

void
loop_stop(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	l->stopped = true;
	pthread_mutex_unlock(&l->lock);
	wake(l);
}

void
loop_raise(struct loop *l, struct loop_call *call)
{
	bool first = false;

	pthread_mutex_lock(&l->lock);
	if (!call->raised) {
		first = l->calls == NULL;
		call->raised = true;
		call->next = NULL;
		*l->calls_tail = call;
		l->calls_tail = &call->next;
	}
	pthread_mutex_unlock(&l->lock);
	if (first)
		wake(l);
}

void
loop_call_cancel(struct loop *l, struct loop_call *call)
{
	pthread_mutex_lock(&l->lock);
	for (struct loop_call **at = &l->calls; *at != NULL; at = &(*at)->next) {
		if (*at == call) {
			*at = call->next;
			if (*at == NULL)
				l->calls_tail = at;
			break;
		}
	}
	call->raised = false;
	pthread_mutex_unlock(&l->lock);
}

void
loop_fd_add(struct loop *l, struct loop_fd *f)
{
	f->on = true;
	f->got = 0;
	f->prev = NULL;
	f->next = l->fds;
	if (l->fds != NULL)
		l->fds->prev = f;
	l->fds = f;
	l->n_fds++;
}

void
loop_fd_del(struct loop *l, struct loop_fd *f)
{
	if (!f->on)
		return;
	if (l->fd_cursor == f)
		l->fd_cursor = f->next;
	if (f->prev != NULL)
		f->prev->next = f->next;
	else
		l->fds = f->next;
	if (f->next != NULL)
		f->next->prev = f->prev;
	f->on = false;
	l->n_fds--;
}

void
loop_timer_clear(struct loop *l, struct loop_timer *t)
{
	if (!t->on)
		return;
	if (t->prev != NULL)
		t->prev->next = t->next;
	else
		l->timers = t->next;
	if (t->next != NULL)
		t->next->prev = t->prev;
	t->on = false;
}

void
loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t in_ms)
{
	struct loop_timer *before = NULL, *after;

	loop_timer_clear(l, t);
	t->due_ms = clock_ms() + in_ms;
	for (after = l->timers; after != NULL && after->due_ms <= t->due_ms;
		after = after->next)
		before = after;
	t->prev = before;
	t->next = after;
	if (before != NULL)
		before->next = t;
	else
		l->timers = t;
	if (after != NULL)
		after->prev = t;
	t->on = true;
}

void
loop_hook_add(struct loop *l, struct loop_hook *h)
{
	h->on = true;
	h->prev = NULL;
	h->next = l->hooks;
	if (l->hooks != NULL)
		l->hooks->prev = h;
	l->hooks = h;
}

void
loop_hook_del(struct loop *l, struct loop_hook *h)
{
	if (!h->on)
		return;
	if (l->hook_cursor == h)
		l->hook_cursor = h->next;
	if (h->prev != NULL)
		h->prev->next = h->next;
	else
		l->hooks = h->next;
	if (h->next != NULL)
		h->next->prev = h->prev;
	h->on = false;
}

/* Milliseconds to sleep: to the first timer, at most max_wait_ms. */
static int
wait_time(const struct loop *l, int max_wait_ms)
{
	if (l->timers == NULL)
		return max_wait_ms;
	uint64_t now = clock_ms(), due = l->timers->due_ms;
	uint64_t left = due > now ? due - now : 0;
	if (left > 60000)
		left = 60000;
	if (max_wait_ms < 0 || left < (uint64_t)max_wait_ms)
		return (int)left;
	return max_wait_ms;
}

static int
poll_all(struct loop *l, int wait_ms)
{
	size_t n = 0;

	if (l->n_fds + 1 > l->polled_cap) {
		size_t cap = (l->n_fds + 1) * 2;
		struct pollfd *grown = realloc(l->polled, cap * sizeof(*grown));
		if (grown == NULL)
			return ERR_NOMEM;
		l->polled = grown;
		l->polled_cap = cap;
	}
	l->polled[n++] = (struct pollfd){ l->wake_fd, POLLIN, 0 };
	for (struct loop_fd *f = l->fds; f != NULL; f = f->next)
		l->polled[n++] = (struct pollfd){ f->fd, f->events, 0 };
	if (poll(l->polled, n, wait_ms) < 0) {
		if (errno != EINTR) {
			log_err("loop: poll failed: error=\"%s\"", strerror(errno));
			return ERR_IO;
		}
		for (size_t i = 0; i < n; i++)
			l->polled[i].revents = 0;
	}
	n = 1;
	for (struct loop_fd *f = l->fds; f != NULL; f = f->next)
		f->got = l->polled[n++].revents;
	if (l->polled[0].revents != 0) {
		uint64_t count;
		ssize_t ignored = read(l->wake_fd, &count, sizeof(count));
		(void)ignored;
	}
	return 0;
}

static void
run_fds(struct loop *l)
{
	for (struct loop_fd *f = l->fds; f != NULL; f = l->fd_cursor) {
		short got = f->got;
		l->fd_cursor = f->next;
		f->got = 0;
		if (got != 0)
			f->fn(f->arg, got);
	}
}

static void
run_calls(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	struct loop_call *last = NULL;
	/* Calls raised from here on wait for the next turn: stop at today's last one. */
	for (struct loop_call *c = l->calls; c != NULL; c = c->next)
		last = c;
	pthread_mutex_unlock(&l->lock);

	while (last != NULL) {
		pthread_mutex_lock(&l->lock);
		struct loop_call *c = l->calls;
		if (c != NULL) {
			l->calls = c->next;
			if (l->calls == NULL)
				l->calls_tail = &l->calls;
			c->raised = false;
		}
		pthread_mutex_unlock(&l->lock);
		if (c == NULL)
			break;
		if (c == last)
			last = NULL;
		c->fn(c->arg);
	}
}

/* Something may have been raised while calls ran, with the list not empty and so no wake-up. */
static bool
has_calls(struct loop *l, bool *stopped_out)
{
	pthread_mutex_lock(&l->lock);
	bool has = l->calls != NULL;
	*stopped_out = l->stopped;
	pthread_mutex_unlock(&l->lock);
	return has;
}

static void
run_timers(struct loop *l)
{
	uint64_t now = clock_ms();
	unsigned n = 0;

	/* Only those due now: one set again for at once goes behind them and waits. */
	for (struct loop_timer *t = l->timers; t != NULL && t->due_ms <= now;
		t = t->next)
		n++;
	for (; n > 0; n--) {
		struct loop_timer *t = l->timers;
		if (t == NULL || t->due_ms > now)
			break;
		loop_timer_clear(l, t);
		t->fn(t->arg);
	}
}

void
loop_hook_again(struct loop *l)
{
	l->hooks_again = true;
}

/* True if the hooks still have something to do: then the next turn does not sleep. */
static bool
run_hooks(struct loop *l)
{
	for (unsigned round = 0; round < 8; round++) {
		l->hooks_again = false;
		for (struct loop_hook *h = l->hooks; h != NULL; h = l->hook_cursor) {
			l->hook_cursor = h->next;
			h->fn(h->arg);
		}
		if (!l->hooks_again)
			return false;
	}
	return true;
}

int
loop_turn(struct loop *l, int max_wait_ms)
{
	bool stopped;
	int wait_ms = has_calls(l, &stopped) || stopped || l->hooks_again
			      ? 0
			      : wait_time(l, max_wait_ms);
	int rc = poll_all(l, wait_ms);

	if (rc != 0)
		return rc;
	run_fds(l);
	run_calls(l);
	run_timers(l);
	l->hooks_again = run_hooks(l);
	return 0;
}

int
loop_run(struct loop *l)
{
	sigset_t pipe_only;
	bool stopped = false;
	int rc = 0;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
	while (rc == 0) {
		has_calls(l, &stopped);
		if (stopped)
			break;
		rc = loop_turn(l, -1);
	}
	return rc;
}
