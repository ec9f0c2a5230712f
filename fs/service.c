/*
 * How it works: three states, open, draining, drained, under one lock; the slow work is done
 * without it by whoever set "draining". A watch thread opens a drained gate again when nobody
 * unmounted in time.
 */
#include "fs/service.h"
#include "fs/ctl.h"
#include "fs/unmount.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum state { OPEN, DRAINING, DRAINED };
enum { FOREVER_MS = 1 << 30 };

static struct {
	struct service_conf c;
	struct ctl *ctl;
	pthread_t watch;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	enum state state;
	uint64_t drained_at; /* clock_ms */
	bool stopping;
} sv = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void
set_state(enum state state)
{
	pthread_mutex_lock(&sv.lock);
	sv.state = state;
	if (state == DRAINED)
		sv.drained_at = clock_ms();
	pthread_cond_broadcast(&sv.changed);
	pthread_mutex_unlock(&sv.lock);
}

static void
open_gate(void)
{
	if (sv.c.ops->open != NULL)
		sv.c.ops->open(sv.c.ops->arg);
	set_state(OPEN);
}

/* ---- drain ---- */

struct patience {
	struct ctl_call *call; /* NULL: a signal's, whom nobody hangs up on */
	uint64_t end; /* clock_ms */
};

static bool
still_wanted(void *arg)
{
	struct patience *p = arg;

	if (p->call != NULL && !ctl_call_pause(p->call, 0) &&
		ctl_call_code(p->call) != ERR_TIMEOUT)
		return false;
	pthread_mutex_lock(&sv.lock);
	bool on = !sv.stopping;
	pthread_mutex_unlock(&sv.lock);
	return on;
}

static uint64_t
left(const struct patience *p)
{
	uint64_t now = clock_ms();

	return now < p->end ? p->end - now : 0;
}

static int
drain_steps(struct patience *p, struct buf *out)
{
	const struct service_ops *ops = sv.c.ops;
	int rc = 0;

	if (ops->shut != NULL)
		rc = ops->shut(ops->arg, left(p), still_wanted, p, out);
	if (rc == 0 && ops->wait != NULL)
		rc = ops->wait(ops->arg, left(p), still_wanted, p, out);
	if (rc == 0 && ops->prove != NULL)
		rc = ops->prove(ops->arg, left(p), still_wanted, p, out);
	if (rc == 0 && !still_wanted(p))
		rc = ERR_CLOSED;
	return rc;
}

static int
drain(struct ctl_call *call, uint64_t ms, struct buf *out)
{
	struct patience p = { call, clock_ms() + ms };
	uint64_t began = clock_ms();
	int rc;

	pthread_mutex_lock(&sv.lock);
	rc = sv.stopping ? ERR_CLOSED : sv.state == DRAINING ? ERR_EXISTS : 0;
	if (rc == 0)
		sv.state = DRAINING;
	pthread_mutex_unlock(&sv.lock);
	if (rc != 0) {
		buf_printf(out, "%s",
			rc == ERR_EXISTS ? "somebody else drains it already"
					 : "it has been unmounted");
		return rc;
	}
	rc = drain_steps(&p, out);
	if (rc == 0) {
		set_state(DRAINED);
		log_info("drained: every peer has everything ms=%" PRIu64,
			clock_ms() - began);
		return 0;
	}
	if (out->len == 0)
		buf_printf(out, "%s", err_text(rc));
	log_warn("not drained: %s", buf_str(out));
	open_gate();
	return rc;
}

/* Opens the gate when a drained slot was forgotten. */
static void *
watch_main(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&sv.lock);
	while (!sv.stopping) {
		struct timespec until;
		if (sv.state != DRAINED) {
			pthread_cond_wait(&sv.changed, &sv.lock);
			continue;
		}
		if (clock_ms() >= sv.drained_at + SERVICE_DRAINED_MS) {
			pthread_mutex_unlock(&sv.lock);
			log_warn("drained but not unmounted: open for changes again");
			open_gate();
			pthread_mutex_lock(&sv.lock);
			continue;
		}
		until = clock_until(1000);
		clock_wait(&sv.changed, &sv.lock, &until);
	}
	pthread_mutex_unlock(&sv.lock);
	return NULL;
}

/* ---- the commands ---- */

void
service_facts(struct status_facts *out, struct sync_facts *room)
{
	const struct service_ops *ops = sv.c.ops;

	memset(room, 0, sizeof(*room));
	room->role = sv.c.conf->role == CONF_ACTIVE ? SYNC_ACTIVE : SYNC_STANDBY;
	if (ops->facts != NULL)
		ops->facts(ops->arg, room);
	/* Positions are newer than what was reckoned from them. */
	for (unsigned i = 0; i < room->n_peers; i++) {
		struct sync_peer_facts *p = &room->peers[i];
		if (p->lag_seqs == 0)
			p->lag_ms = 0;
		if (p->flushed < p->applied)
			p->flushed = p->applied;
	}
	pthread_mutex_lock(&sv.lock);
	enum state state = sv.state;
	pthread_mutex_unlock(&sv.lock);
	*out = (struct status_facts){ .name = sv.c.conf->name,
		.mountpoint = sv.c.conf->mountpoint,
		.spool = sv.c.conf->spool,
		.supervisor = sv.c.supervisor,
		.server = getpid(),
		.started = sv.c.started,
		.now = clock_wall_ns(),
		.restarts = sv.c.restarts,
		.clean = state == DRAINED,
		.sync = room };
	out->transport = ops->transport != NULL ? ops->transport(ops->arg) : "dev";
	out->gate = ops->gate != NULL ? ops->gate(ops->arg) : "open";
}

static int
on_status(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	struct sync_facts *room = malloc(sizeof(*room));
	struct status_facts facts;

	(void)arg, (void)call;
	if (room == NULL)
		return ERR_NOMEM;
	service_facts(&facts, room);
	if (ctl_arg_flag(args, "json")) {
		status_json(&facts, out);
	} else if (ctl_arg_flag(args, "metrics")) {
		status_metrics(&facts, out);
		if (sv.c.ops->metrics != NULL)
			sv.c.ops->metrics(sv.c.ops->arg, out);
	} else {
		status_text(&facts, out);
	}
	free(room);
	return 0;
}

static bool
call_goes_on(void *arg)
{
	struct ctl_call *call = arg;

	return ctl_call_pause(call, 0) || ctl_call_code(call) == ERR_TIMEOUT;
}

static int
on_wait(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	const struct service_ops *ops = sv.c.ops;
	int64_t ms = ctl_call_left(call);

	(void)arg, (void)args;
	if (ops->wait == NULL)
		return 0;
	return ops->wait(ops->arg, ms > FOREVER_MS ? FOREVER_MS : (uint64_t)ms,
		call_goes_on, call, out);
}

static int
on_drain(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	int64_t ms = ctl_call_left(call);

	(void)arg, (void)args;
	return drain(call, ms == INT64_MAX ? sv.c.conf->stop_wait : (uint64_t)ms, out);
}

static int
on_resume(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)arg, (void)call, (void)args;
	pthread_mutex_lock(&sv.lock);
	bool drained = sv.state == DRAINED;
	pthread_mutex_unlock(&sv.lock);
	if (drained) {
		log_info("not unmounted: open for changes again");
		open_gate();
	}
	(void)out;
	return 0;
}

static int
on_drained(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)arg, (void)call, (void)args, (void)out;
	pthread_mutex_lock(&sv.lock);
	bool drained = sv.state == DRAINED;
	pthread_mutex_unlock(&sv.lock);
	return drained ? 0 : ERR_CLOSED;
}

static int
on_force(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	const struct service_ops *ops = sv.c.ops;

	(void)arg, (void)call, (void)args;
	if (ops->force != NULL)
		buf_printf(out, "%u answered without a peer\n", ops->force(ops->arg));
	return 0;
}

static int
on_pids(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)arg, (void)call, (void)args;
	buf_printf(out, "%d %d\n", (int)sv.c.supervisor, (int)getpid());
	return 0;
}

int
service_start(const struct service_conf *conf)
{
	static const struct {
		const char *name;
		ctl_fn *fn;
	} commands[] = { { "status", on_status }, { "wait", on_wait },
		{ "drain", on_drain }, { "resume", on_resume },
		{ "drained", on_drained }, { "pids", on_pids }, { "force", on_force } };
	int rc;

	sv.c = *conf;
	sv.state = OPEN;
	sv.stopping = false;
	rc = ctl_new(&sv.ctl);
	for (size_t i = 0; rc == 0 && i < sizeof(commands) / sizeof(commands[0]); i++)
		rc = ctl_add(sv.ctl, commands[i].name, commands[i].fn, NULL);
	int err = rc == 0 ? pthread_create(&sv.watch, NULL, watch_main, NULL) : 0;
	if (err != 0) {
		log_err("cannot start a thread: %s", strerror(err));
		return ERR_NOMEM;
	}
	if (rc == 0)
		rc = ctl_start(sv.ctl, sv.c.conf->state);
	if (rc != 0)
		log_err("no control socket: %s state=%s",
			rc == ERR_BUSY ? "another process serves this state folder"
				       : err_text(rc),
			sv.c.conf->state);
	return rc;
}

/* Says in the log who keeps the mount busy. */
static void
log_holders(const char *path)
{
	struct mount_place *place = calloc(1, sizeof(*place));
	struct buf b = BUF_INIT;

	if (place != NULL && unmount_find(path, place) == 0)
		unmount_holders(place, &b);
	log_warn("it is busy: open for changes again path=%s", path);
	for (char *line = b.len > 0 ? strtok((char *)(uintptr_t)buf_str(&b), "\n")
				    : NULL;
		line != NULL; line = strtok(NULL, "\n"))
		log_warn("held by %s", line);
	buf_fini(&b);
	free(place);
}

void
service_signal(void)
{
	const char *path = sv.c.conf->mountpoint;
	struct buf b = BUF_INIT;
	int rc = drain(NULL, sv.c.conf->stop_wait, &b);

	buf_fini(&b);
	if (rc == ERR_BUSY)
		log_holders(path);
	if (rc != 0) {
		log_warn("not unmounted; `twinspool umount --force` does it all the "
			 "same "
			 "path=%s",
			path);
		return;
	}
	rc = unmount_now(path, false);
	if (rc == 0)
		return;
	if (rc == ERR_BUSY)
		log_holders(path);
	else
		log_err("cannot unmount error=%s path=%s", err_text(rc), path);
	open_gate();
}

bool
service_stop(void)
{
	bool drained;

	pthread_mutex_lock(&sv.lock);
	sv.stopping = true;
	drained = sv.state == DRAINED;
	pthread_cond_broadcast(&sv.changed);
	pthread_mutex_unlock(&sv.lock);
	ctl_stop(sv.ctl);
	sv.ctl = NULL;
	if (sv.watch != 0)
		pthread_join(sv.watch, NULL);
	sv.watch = 0;
	return drained;
}
