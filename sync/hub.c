/*
 * hub.c - connections come and go; peers stay.
 *
 * A peer has at most one dialling session (not yet up, or just lost) and at most one that is up.
 * Whenever it has neither, its retry timer runs. An accepted session belongs to nobody until its
 * certificate has said whose it is; of those at most STRANGERS_MAX exist, so that strangers cannot
 * use up descriptors.
 *
 * Both sides decide by the same two facts, who dialled and the boot numbers, so both keep the
 * same one of two sessions. The loser is told so by a BYE.
 */
#include "sync/hub.h"
#include "sync/link.h"
#include "sync/loop.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ADDRESS_MAX = 300,
	STRANGERS_MAX = 32,
	SESSIONS_MAX = STRANGERS_MAX + 4 * HUB_PEERS_MAX,
	BACKLOG = 16,
	REFUSED_QUIET_MS = 60000
};

struct peer {
	struct hub *hub;
	unsigned index;
	char name[WIRE_NAME_MAX + 1];
	char host[ADDRESS_MAX], port[16]; /* host "": never dialled */
	char address[ADDRESS_MAX];
	uint8_t print[LINK_PRINT_LEN];
	struct session *up, *dialling;
	struct loop_timer retry;
	unsigned backoff_ms;
	char last_error[SESSION_SAID];
	uint64_t up_since_ms, sessions;
	struct session_stats stats; /* of those that ended */

	/* What the name means; the thread fills it in and raises the call. */
	struct addrinfo *found, *next;
	struct loop_call resolved;
	pthread_t resolver;
	bool resolving;
	int resolve_error;
};

struct hub {
	struct loop *loop;
	struct link_tls *tls;
	char name[WIRE_NAME_MAX + 1];
	uint64_t boot;
	const struct session_ops *ops;
	void *node;
	uint64_t rate, without;
	struct peer *peers;
	unsigned n_peers;
	struct loop_fd listener;
	unsigned port;
	struct session *sessions[SESSIONS_MAX]; /* all that are not freed */
	unsigned n_sessions;
	bool closing;
	uint64_t rng;
	char refused[SESSION_SAID]; /* what the last stranger was told */
	uint64_t refused_ms;
};

static void dial(struct peer *p);

/* --- back-off ------------------------------------------------------------------------ */

static uint64_t
hub_random(struct hub *h)
{
	h->rng ^= h->rng << 13;
	h->rng ^= h->rng >> 7;
	h->rng ^= h->rng << 17;
	return h->rng;
}

static void
on_retry(void *arg)
{
	struct peer *p = arg;

	if (p->up == NULL && p->dialling == NULL && !p->hub->closing)
		dial(p);
}

/* Between half and all of the back-off, so that two nodes do not stay in step. */
static void
retry_later(struct peer *p)
{
	if (p->host[0] == '\0' || p->hub->closing || p->up != NULL ||
		p->dialling != NULL || p->resolving)
		return;
	unsigned half = p->backoff_ms / 2;
	loop_timer_set(p->hub->loop, &p->retry, half + hub_random(p->hub) % (half + 1));
	p->backoff_ms *= 2;
	if (p->backoff_ms > HUB_BACKOFF_MAX_MS)
		p->backoff_ms = HUB_BACKOFF_MAX_MS;
}

/* A peer that cannot be reached is said once per reason, not once per attempt. */
static void
say_unreachable(struct peer *p, const char *text)
{
	if (strcmp(p->last_error, text) != 0)
		log_warn("hub: cannot reach: peer=%s address=%s reason=\"%s\"", p->name,
			p->address, text);
	snprintf(p->last_error, sizeof(p->last_error), "%s", text);
}

/* --- sessions ------------------------------------------------------------------------ */

static int
on_who(void *owner, const uint8_t fingerprint[32], const char **name_out)
{
	struct hub *h = owner;

	for (unsigned i = 0; i < h->n_peers; i++) {
		if (memcmp(h->peers[i].print, fingerprint, LINK_PRINT_LEN) == 0) {
			*name_out = h->peers[i].name;
			return (int)i;
		}
	}
	return -1;
}

/* Does the new session of a peer win against the one that is up? (hub.h, rules 1 to 3) */
static bool
newer_wins(const struct hub *h, const struct peer *p, const struct session *s,
	const struct wire_hello *hello)
{
	bool lower = strcmp(h->name, p->name) < 0;

	if (session_hello(p->up)->boot != hello->boot)
		return true;
	if (session_dialled(p->up) == session_dialled(s))
		return true;
	return session_dialled(s) == lower;
}

static int
on_elect(void *owner, struct session *s, const struct wire_hello *hello)
{
	struct hub *h = owner;
	struct peer *p = &h->peers[session_peer_index(s)];

	if (p->up != NULL && !newer_wins(h, p, s, hello))
		return session_reject(s, ERR_CLOSED, WIRE_BYE_DUPLICATE,
			"the other connection is kept");
	if (p->up != NULL)
		session_end_now(
			p->up, WIRE_BYE_DUPLICATE, "a newer connection is kept");
	p->up = s;
	p->up_since_ms = clock_ms();
	p->sessions++;
	p->last_error[0] = '\0';
	loop_timer_clear(h->loop, &p->retry);
	return 0;
}

static void
on_lost(void *owner, struct session *s)
{
	struct hub *h = owner;
	struct peer *p = &h->peers[session_peer_index(s)];

	if (p->up == s)
		p->up = NULL;
}

/* The peer whose session this is, NULL for a stranger. */
static struct peer *
owner_of(struct hub *h, struct session *s)
{
	for (unsigned i = 0; i < h->n_peers; i++)
		if (h->peers[i].dialling == s ||
			(session_hello(s) != NULL && session_peer_index(s) == i))
			return &h->peers[i];
	return NULL;
}

static void
forget_session(struct hub *h, const struct session *s)
{
	for (unsigned i = 0; i < h->n_sessions; i++) {
		if (h->sessions[i] == s) {
			h->sessions[i] = h->sessions[--h->n_sessions];
			return;
		}
	}
}

static void
on_ended(void *owner, struct session *s, int code)
{
	struct hub *h = owner;
	struct peer *p = owner_of(h, s);
	struct session_stats stats;
	bool dialled = p != NULL && p->dialling == s;

	forget_session(h, s);
	if (p == NULL)
		return;
	session_stats(s, &stats);
	session_stats_add(&p->stats, &stats);
	if (dialled)
		p->dialling = NULL;
	/* It was up and was lost: again at once. A broken protocol waits longer and longer. */
	if (session_version(s) != 0 &&
		(code == ERR_LINK || code == ERR_CLOSED || code == ERR_TIMEOUT))
		p->backoff_ms = HUB_BACKOFF_MS;
	else if (dialled && code == ERR_LINK)
		say_unreachable(p, session_reason(s));
	if (p->up == NULL)
		retry_later(p);
}

static int
start_session(struct hub *h, int fd, struct peer *p)
{
	struct session_conf conf = {
		.loop = h->loop,
		.name = h->name,
		.boot = h->boot,
		.ops = h->ops,
		.node = h->node,
		.who = on_who,
		.elect = on_elect,
		.lost = on_lost,
		.ended = on_ended,
		.owner = h,
		.rate = h->rate,
		.without = h->without,
		.said = p != NULL ? p->last_error : h->refused,
	};
	struct session *s;
	struct link *link;
	int rc;

	if (p == NULL && clock_ms() - h->refused_ms > REFUSED_QUIET_MS) {
		h->refused[0] = '\0';
		h->refused_ms = clock_ms();
	}
	if (h->n_sessions == SESSIONS_MAX) {
		close(fd);
		return ERR_LIMIT;
	}
	rc = link_tls_start(h->tls, fd, p != NULL, p != NULL ? p->print : NULL, &link);
	if (rc == 0)
		rc = session_open(&conf, link, p != NULL, &s);
	if (rc != 0)
		return rc;
	h->sessions[h->n_sessions++] = s;
	if (p != NULL)
		p->dialling = s;
	return 0;
}

/* --- dialling ------------------------------------------------------------------------ */

/* Tries the next address; false if there is none left. */
static bool
dial_next(struct peer *p)
{
	while (p->next != NULL) {
		struct addrinfo *a = p->next;
		int fd = socket(
			a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

		p->next = a->ai_next;
		if (fd < 0) {
			say_unreachable(p, strerror(errno));
			continue;
		}
		if (connect(fd, a->ai_addr, a->ai_addrlen) != 0 &&
			errno != EINPROGRESS) {
			say_unreachable(p, strerror(errno));
			close(fd);
			continue;
		}
		if (start_session(p->hub, fd, p) == 0)
			return true;
	}
	return false;
}

static void *
resolve(void *arg)
{
	struct peer *p = arg;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };

	p->resolve_error = getaddrinfo(p->host, p->port, &hints, &p->found);
	loop_raise(p->hub->loop, &p->resolved);
	return NULL;
}

static void
on_resolved(void *arg)
{
	struct peer *p = arg;

	pthread_join(p->resolver, NULL);
	p->resolving = false;
	p->next = p->resolve_error == 0 ? p->found : NULL;
	if (p->resolve_error != 0)
		say_unreachable(p, gai_strerror(p->resolve_error));
	if (p->up == NULL && p->dialling == NULL && !p->hub->closing && !dial_next(p))
		retry_later(p);
}

/* Remaining addresses first, then the name is looked up anew. */
static void
dial(struct peer *p)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };

	if (p->host[0] == '\0' || p->resolving || dial_next(p))
		return;
	if (p->found != NULL)
		freeaddrinfo(p->found);
	p->found = p->next = NULL;
	if (getaddrinfo(p->host, p->port, &hints, &p->found) == 0) {
		p->next = p->found;
		if (!dial_next(p))
			retry_later(p);
		return;
	}
	p->found = NULL;
	p->resolving = true;
	if (pthread_create(&p->resolver, NULL, resolve, p) != 0) {
		p->resolving = false;
		say_unreachable(p, "no thread for the name");
		retry_later(p);
	}
}

/* --- listening ----------------------------------------------------------------------- */

/* How many sessions are neither up nor dialled by us: strangers so far. */
static unsigned
strangers(const struct hub *h)
{
	unsigned known = 0;

	for (unsigned i = 0; i < h->n_peers; i++) {
		known += h->peers[i].dialling != NULL;
		known += h->peers[i].up != NULL &&
			 h->peers[i].up != h->peers[i].dialling;
	}
	return h->n_sessions - known;
}

static void
on_accept(void *arg, short revents)
{
	struct hub *h = arg;

	(void)revents;
	for (unsigned i = 0; i < BACKLOG; i++) {
		int fd = accept4(
			h->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			return;
		if (strangers(h) >= STRANGERS_MAX) {
			close(fd);
			continue;
		}
		start_session(h, fd, NULL);
	}
}

/* "host:port" or "[v6]:port" in two. */
static int
split_address(const char *address, char host[ADDRESS_MAX], char port[16])
{
	const char *colon = strrchr(address, ':'), *from = address, *to = colon;

	if (colon == NULL || colon[1] == '\0' || strlen(colon + 1) > 15 ||
		strlen(address) >= ADDRESS_MAX)
		return ERR_CONF;
	if (address[0] == '[') {
		if (colon[-1] != ']')
			return ERR_CONF;
		from++;
		to--;
	}
	memcpy(host, from, (size_t)(to - from));
	host[to - from] = '\0';
	strcpy(port, colon + 1);
	return 0;
}

static int
bind_one(const struct addrinfo *a, int *fd_out)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		return ERR_IO;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
		int saved = errno;
		close(fd);
		errno = saved;
		return ERR_IO;
	}
	*fd_out = fd;
	return 0;
}

static unsigned
port_of(int fd)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &len) != 0)
		return 0;
	return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
					     : ((struct sockaddr_in *)&a)->sin_port);
}

static int
listen_on(struct hub *h, const char *address)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *found = NULL;
	char host[ADDRESS_MAX], port[16];
	int rc, fd = -1;

	if (split_address(address, host, port) != 0 ||
		getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &found) != 0) {
		log_err("hub: not an address to listen on: listen=%s "
			"expected=\"host:port\"",
			address);
		return ERR_CONF;
	}
	rc = ERR_IO;
	for (struct addrinfo *a = found; a != NULL && rc != 0; a = a->ai_next)
		rc = bind_one(a, &fd);
	freeaddrinfo(found);
	if (rc != 0) {
		log_err("hub: cannot listen: listen=%s error=\"%s\"", address,
			strerror(errno));
		return rc;
	}
	h->port = port_of(fd);
	h->listener = (struct loop_fd){
		.fd = fd, .events = POLLIN, .fn = on_accept, .arg = h
	};
	loop_fd_add(h->loop, &h->listener);
	return 0;
}

/* --- the whole ----------------------------------------------------------------------- */

static int
peer_init(struct hub *h, unsigned i, const struct hub_peer_conf *conf)
{
	struct peer *p = &h->peers[i];

	p->hub = h;
	p->index = i;
	p->backoff_ms = HUB_BACKOFF_MS;
	p->retry = (struct loop_timer){ .fn = on_retry, .arg = p };
	p->resolved = (struct loop_call){ .fn = on_resolved, .arg = p };
	memcpy(p->print, conf->fingerprint, LINK_PRINT_LEN);
	if (conf->name == NULL || conf->name[0] == '\0' ||
		strlen(conf->name) > WIRE_NAME_MAX ||
		strcmp(conf->name, h->name) == 0) {
		log_err("hub: not a name for a peer: peer=%s",
			conf->name != NULL ? conf->name : "");
		return ERR_CONF;
	}
	strcpy(p->name, conf->name);
	for (unsigned j = 0; j < i; j++) {
		if (strcmp(h->peers[j].name, p->name) == 0 ||
			memcmp(h->peers[j].print, p->print, LINK_PRINT_LEN) == 0) {
			log_err("hub: two peers with one name or one certificate: "
				"peer=%s",
				p->name);
			return ERR_CONF;
		}
	}
	if (conf->address != NULL && conf->address[0] != '\0') {
		if (split_address(conf->address, p->host, p->port) != 0) {
			log_err("hub: not an address: peer=%s address=%s "
				"expected=\"host:port\"",
				p->name, conf->address);
			return ERR_CONF;
		}
		strcpy(p->address, conf->address);
	}
	return link_tls_pin(h->tls, p->print);
}

int
hub_open(const struct hub_conf *conf, struct hub **out)
{
	struct hub *h = calloc(1, sizeof(*h));
	int rc = ERR_NOMEM;

	*out = NULL;
	if (h == NULL)
		return ERR_NOMEM;
	h->loop = conf->loop;
	h->tls = conf->tls;
	h->ops = conf->ops;
	h->node = conf->node;
	h->rate = conf->rate;
	h->without = conf->without;
	h->listener.fd = -1;
	h->n_peers = conf->n_peers;
	h->peers = calloc(conf->n_peers + 1, sizeof(*h->peers));
	if (h->peers == NULL || getrandom(&h->boot, sizeof(h->boot), 0) < 0 ||
		getrandom(&h->rng, sizeof(h->rng), 0) < 0)
		goto out;
	h->rng |= 1;
	rc = ERR_CONF;
	if (conf->n_peers > HUB_PEERS_MAX || strlen(conf->name) > WIRE_NAME_MAX) {
		log_err("hub: too many peers or too long a name: peers=%u name=%s",
			conf->n_peers, conf->name);
		goto out;
	}
	strcpy(h->name, conf->name);
	rc = 0;
	for (unsigned i = 0; rc == 0 && i < conf->n_peers; i++)
		rc = peer_init(h, i, &conf->peers[i]);
	if (rc == 0 && conf->listen != NULL && conf->listen[0] != '\0')
		rc = listen_on(h, conf->listen);
	if (rc != 0)
		goto out;
	for (unsigned i = 0; i < h->n_peers; i++)
		if (h->peers[i].host[0] != '\0')
			loop_timer_set(h->loop, &h->peers[i].retry, 0);
	*out = h;
	h = NULL;
out:
	hub_close(h, 0);
	return rc;
}

/* Every session says BYE; those that are not gone by the limit are cut. */
static void
end_sessions(struct hub *h, int limit_ms)
{
	uint64_t start = clock_ms();

	for (unsigned i = 0; i < h->n_sessions; i++)
		session_end(h->sessions[i], WIRE_BYE_STOP, "stopping");
	while (h->n_sessions > 0 && clock_ms() - start < (uint64_t)limit_ms)
		if (loop_turn(h->loop, 10) != 0)
			break;
	while (h->n_sessions > 0)
		session_kill(h->sessions[0], ERR_CLOSED, "stopping");
}

static void
peer_fini(struct hub *h, struct peer *p)
{
	if (p->resolving)
		pthread_join(p->resolver, NULL);
	loop_call_cancel(h->loop, &p->resolved);
	loop_timer_clear(h->loop, &p->retry);
	if (p->found != NULL)
		freeaddrinfo(p->found);
}

void
hub_close(struct hub *h, int limit_ms)
{
	if (h == NULL)
		return;
	h->closing = true;
	if (h->listener.fd >= 0) {
		loop_fd_del(h->loop, &h->listener);
		close(h->listener.fd);
	}
	end_sessions(h, limit_ms);
	for (unsigned i = 0; h->peers != NULL && i < h->n_peers; i++)
		peer_fini(h, &h->peers[i]);
	free(h->peers);
	free(h);
}

unsigned
hub_port(const struct hub *h)
{
	return h->port;
}

void
hub_hurry(struct hub *h)
{
	for (unsigned i = 0; i < h->n_peers; i++) {
		struct peer *p = &h->peers[i];
		p->backoff_ms = HUB_BACKOFF_MS;
		if (p->up == NULL && p->dialling == NULL)
			dial(p);
	}
}

void
hub_facts(struct hub *h, unsigned peer, struct hub_peer_facts *out)
{
	struct peer *p = &h->peers[peer];
	struct session_stats now;

	*out = (struct hub_peer_facts){
		.name = p->name,
		.address = p->address,
		.state = p->up != NULL         ? "up"
			 : p->dialling != NULL ? "dialling"
					       : "waiting",
		.last_error = p->last_error,
		.up_since_ms = p->up != NULL ? p->up_since_ms : 0,
		.sessions = p->sessions,
		.stats = p->stats,
	};
	if (p->up != NULL) {
		session_stats(p->up, &now);
		session_stats_add(&out->stats, &now);
	}
}
