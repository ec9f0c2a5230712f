/*
 * hub.h - all connections of this node: the listener, one dialler per peer, who wins.
 *
 * Both sides listen and both dial. A peer without a session is dialled again and again, after a
 * back-off that doubles from HUB_BACKOFF_MS to HUB_BACKOFF_MAX_MS with jitter, and begins anew
 * once a session was up and was lost by the line alone. At most one session of a peer is up:
 *   1. a session whose HELLO has another boot number replaces the one of the dead process;
 *   2. of two dialled by the same side the newer stays;
 *   3. else the one dialled by the node with the lower name stays.
 *
 * Owns     the listening socket, the sessions, the table of pins.
 * Threads  the loop's thread; hub_open before it runs, hub_close after it has stopped (or on it).
 *          Names are looked up in a thread of its own, numbers are not.
 * Errors   ERR_CONF (address, pin), ERR_IO (bind), ERR_NOMEM, and those of link_tls_open.
 */
#ifndef SYNC_HUB_H
#define SYNC_HUB_H

#include "sync/session.h"

enum { HUB_BACKOFF_MS = 50, HUB_BACKOFF_MAX_MS = 5000, HUB_PEERS_MAX = 64 };

struct hub;
struct link_tls;

/* Strings are copied. */
struct hub_peer_conf {
	const char *name;
	const char *address; /* host:port or [v6]:port; NULL or "": never dialled */
	uint8_t fingerprint[32]; /* SHA-256 of its certificate */
};

struct hub_conf {
	struct loop *loop;
	const char *name;
	const char *listen; /* host:port; port 0 picks one; NULL: does not listen */
	struct link_tls *tls; /* the caller's; outlives the hub */
	const struct hub_peer_conf *peers;
	unsigned n_peers;
	const struct session_ops *ops;
	void *node;
	uint64_t rate, without; /* see struct session_conf */
};

/* What status shows of a peer. */
struct hub_peer_facts {
	const char *name, *address;
	const char *state; /* "up", "greeting", "dialling", "waiting" */
	const char *last_error; /* "" if none since the start */
	uint64_t up_since_ms; /* clock_ms, 0 if not up */
	uint64_t sessions; /* how many came up since the start */
	struct session_stats stats; /* of all its sessions */
};

int hub_open(const struct hub_conf *conf, struct hub **out);
/* Says BYE to all, waits limit_ms at most for that to leave (turning the loop), closes. */
void hub_close(struct hub *hub, int limit_ms);

void hub_facts(struct hub *hub, unsigned peer, struct hub_peer_facts *out);
/* The port that the listener has; 0 without one. */
unsigned hub_port(const struct hub *hub);
/* Do not wait for the back-off: dial now what is not connected. For tests, whose time is short. */
void hub_hurry(struct hub *hub);

#endif
