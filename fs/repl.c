/*
 * repl.c - the joints between the mount and replication: what one tells the other goes through
 * these functions, handed over as hooks and operations, so that neither includes the other.
 */
#include "fs/repl.h"

#include "fs/capture.h"
#include "fs/gate.h"
#include "fs/inode.h"
#include "fs/shown_mbox.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct spool *spool;
static struct sync *sync_of;
static struct sync_peer_conf peers[SYNC_PEERS_MAX];
static char listen_at[CONF_HOST_MAX + CONF_PORT_MAX + 4], spool_id[128];

/* ---- what replay asks of the mount ---- */

static bool
begin_in_place(void *arg, const char *dir, const char *name, int fd)
{
	(void)arg, (void)dir, (void)name;
	return inode_claim(fd);
}

static void *
stale_main(void *arg)
{
	(void)arg;
	gate_stale();
	return NULL;
}

/* The gate waits for requests, and those may wait for the thread that calls this. */
static void
stale(void *arg)
{
	pthread_t thread;

	(void)arg;
	if (pthread_create(&thread, NULL, stale_main, NULL) == 0)
		pthread_detach(thread);
}

static void
losing(void *arg, int fd)
{
	(void)arg;
	if (inode_losing(fd))
		gate_shed();
}

static void
end_in_place(void *arg, const char *dir, const char *name, int fd)
{
	(void)arg, (void)dir, (void)name;
	inode_unclaim(fd);
}

static void
redone(void *arg)
{
	(void)arg;
	inode_claims_settled();
}

/* ---- start and stop ---- */

static void
address(const struct conf_addr *a, char *out, size_t size)
{
	if (strchr(a->host, ':') != NULL)
		snprintf(out, size, "[%s]:%s", a->host, a->port);
	else
		snprintf(out, size, "%s:%s", a->host, a->port);
}

static void
read_id(const char *state)
{
	char path[CONF_PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/id", state);
	FILE *f = fopen(path, "re");
	if (f == NULL || fgets(spool_id, sizeof(spool_id), f) == NULL)
		spool_id[0] = '\0';
	spool_id[strcspn(spool_id, "\n")] = '\0';
	if (f != NULL)
		fclose(f);
}

int
repl_start(const struct conf *conf, bool takeover)
{
	static const struct sync_hooks hooks = { .begin_in_place = begin_in_place,
		.end_in_place = end_in_place,
		.redone = redone,
		.stale = stale };
	struct sync_conf sc = { .name = conf->name,
		.state = conf->state,
		.role = conf->role == CONF_ACTIVE ? SYNC_ACTIVE : SYNC_STANDBY,
		.spool_id = spool_id,
		.peers = peers,
		.n_peers = conf->n_peers,
		.journal_size = conf->journal_size,
		.journal_age = conf->journal_age,
		.rate = conf->rate,
		.refuse = conf->when_alone == CONF_REFUSE,
		.level_limit = conf->durability_timeout,
		.takeover = takeover };
	static const enum sync_level level_of[] = { SYNC_LOCAL, SYNC_RECEIVED,
		SYNC_FLUSHED, SYNC_APPLIED };
	int rc;

	sc.level[SYNC_DELIVERY] = level_of[conf->durability[CONF_DELIVERY]];
	sc.level[SYNC_FLAGS] = level_of[conf->durability[CONF_FLAGS]];
	sc.level[SYNC_OTHER] = level_of[conf->durability[CONF_OTHER]];

	for (unsigned i = 0; i < conf->n_peers; i++) {
		snprintf(peers[i].name, sizeof(peers[i].name), "%s",
			conf->peers[i].name);
		address(&conf->peers[i].addr, peers[i].address,
			sizeof(peers[i].address));
		memcpy(peers[i].fingerprint, conf->peers[i].fingerprint, SHA256_LEN);
	}
	if (conf->listen.host[0] != '\0') {
		address(&conf->listen, listen_at, sizeof(listen_at));
		sc.listen = listen_at;
	}
	read_id(conf->state);
	if ((rc = spool_open(conf->spool, &spool)) != 0)
		return rc;
	spool_watch(spool, losing, NULL);
	if ((rc = sync_open(&sc, spool, &hooks, &sync_of)) == 0 &&
		sync_is_stale(sync_of))
		gate_stale();
	if (rc != 0 || (rc = sync_start(sync_of)) != 0 ||
		(sync_role(sync_of) == SYNC_ACTIVE &&
			(rc = capture_start(sync_of, conf->mountpoint)) != 0)) {
		log_err("replication cannot start: %s", err_text(rc));
		repl_stop(false);
		return rc;
	}
	if (sync_role(sync_of) == SYNC_ACTIVE) /* nothing is applied here */
		inode_claims_settled();
	return shown_mbox_start(sync_of, conf->spool);
}

int
repl_role(const struct conf *conf, bool *standby_out)
{
	enum sync_role role = SYNC_ACTIVE;
	int rc = sync_stored_role(conf->state, &role);

	if (rc == ERR_NOTFOUND)
		role = conf->role == CONF_ACTIVE ? SYNC_ACTIVE : SYNC_STANDBY;
	else if (rc != 0)
		return rc;
	else if ((role == SYNC_ACTIVE) != (conf->role == CONF_ACTIVE))
		log_warn("the role is the state's, not the configuration's: role=%s",
			role == SYNC_ACTIVE ? "active" : "standby");
	*standby_out = role == SYNC_STANDBY;
	return 0;
}

bool
repl_greeted(void)
{
	return sync_greeted(sync_of);
}

bool
repl_is_standby(void)
{
	return sync_of != NULL && sync_role(sync_of) == SYNC_STANDBY;
}

bool
repl_refusing(void)
{
	return sync_of != NULL && sync_refusing(sync_of);
}

bool
repl_forced(void)
{
	return sync_of != NULL && sync_forced(sync_of);
}

void
repl_stop(bool clean)
{
	capture_stop();
	sync_stop(sync_of, clean);
	sync_of = NULL;
	if (spool != NULL)
		spool_close(spool);
	spool = NULL;
}

/* ---- for the control socket ---- */

static void
facts(void *arg, struct sync_facts *out)
{
	(void)arg;
	sync_facts(sync_of, out);
}

static int
await(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg, struct buf *lack)
{
	(void)arg;
	capture_flush();
	return sync_wait(sync_of, ms, on, on_arg, lack);
}

static int
prove(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg, struct buf *lack)
{
	(void)arg;
	capture_flush();
	return sync_prove(sync_of, ms, on, on_arg, lack);
}

static unsigned
force(void *arg)
{
	(void)arg;
	return sync_force(sync_of);
}

void
repl_service(struct service_ops *ops)
{
	ops->force = force;
	ops->facts = facts;
	ops->wait = await;
	ops->prove = prove;
}
