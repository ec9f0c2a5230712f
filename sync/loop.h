/*
 * loop.h - the peer thread: poll, timers, calls from other threads.
 *
 * One turn is: wait, then ready descriptors, then raised calls, then due timers, then the flush
 * hooks (where sessions send what the turn queued, as one burst). So what arrived in time is
 * always seen before the timer that would complain about its absence.
 *
 * Owns     its eventfd; descriptors, timers, hooks and calls are embedded in their users' structs
 *          and must be removed before those are freed.
 * Threads  loop_raise and loop_stop: any. Everything else: the thread that runs the loop, or
 *          before it runs.
 * Errors   ERR_NOMEM, ERR_IO (eventfd, poll).
 * Time     milliseconds of clock_ms, so a test may turn the loop with a clock of its own.
 */
#ifndef SYNC_LOOP_H
#define SYNC_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;

typedef void loop_fn(void *arg);
/* revents as poll(2) gave them. */
typedef void loop_fd_fn(void *arg, short revents);

/* A watched descriptor. events may be changed at any time; 0 still reports errors. */
struct loop_fd {
	int fd;
	short events;
	loop_fd_fn *fn;
	void *arg;
	struct loop_fd *next, *prev;
	bool on;
	short got; /* what poll said in this turn */
};

/* A timer fires once; set it again to repeat. */
struct loop_timer {
	loop_fn *fn;
	void *arg;
	uint64_t due_ms;
	struct loop_timer *next, *prev; /* by due time */
	bool on;
};

/* Runs at the end of every turn, before the loop sleeps. */
struct loop_hook {
	loop_fn *fn;
	void *arg;
	struct loop_hook *next, *prev;
	bool on;
};

/* A call that other threads raise: however often it is raised before it runs, it runs once, and
 * a raise during the run makes one more. Raising cannot fail. */
struct loop_call {
	loop_fn *fn;
	void *arg;
	struct loop_call *next;
	bool raised;
};

int loop_open(struct loop **out);
/* Calls that were raised and not run are dropped: stop those who raise them first. */
void loop_close(struct loop *loop);

/* Turns until loop_stop. 0 or ERR_IO. SIGPIPE is blocked in the calling thread. */
int loop_run(struct loop *loop);
/* One turn that waits max_wait_ms at most (0: not at all; -1: until something is due). */
int loop_turn(struct loop *loop, int max_wait_ms);
void loop_stop(struct loop *loop);

/* The call runs on the loop's thread. */
void loop_raise(struct loop *loop, struct loop_call *call);
/* Takes a raised call back; on the loop's thread, when nobody can raise it any more. */
void loop_call_cancel(struct loop *loop, struct loop_call *call);

void loop_fd_add(struct loop *loop, struct loop_fd *f);
void loop_fd_del(struct loop *loop, struct loop_fd *f);

void loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t in_ms);
void loop_timer_clear(struct loop *loop, struct loop_timer *t);

void loop_hook_add(struct loop *loop, struct loop_hook *h);
void loop_hook_del(struct loop *loop, struct loop_hook *h);
/* Something was queued that hooks send: if they are running, they run once more. */
void loop_hook_again(struct loop *loop);

#endif
