/*
 * link.h - a byte stream to the peer that never blocks; who is at its other end is proven.
 *
 * The one over TCP and TLS 1.3 is link_tls.c: both sides show a certificate, each accepts only
 * those whose SHA-256 fingerprint (of the DER form) it was told; there is no CA and no plaintext.
 * Tests have another one in memory.
 *
 * Owns     the socket. link_close(NULL) does nothing.
 * Threads  one at a time.
 * Errors   ERR_LINK: lost or closed by the peer; ERR_CERT: not a pinned certificate, ours or the
 *          peer's; ERR_PROTO: not TLS; ERR_NOMEM. All are final; link_reason has the words.
 */
#ifndef SYNC_LINK_H
#define SYNC_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINK_PRINT_LEN = 32 };

struct link;

struct link_ops {
	int (*greet)(struct link *l, bool *done_out);
	int (*read)(struct link *l, void *p, size_t n, size_t *n_out);
	int (*write)(struct link *l, const void *p, size_t n, size_t *n_out);
	void (*shut)(struct link *l);
	void (*close)(struct link *l);
	uint64_t (*line_us)(struct link *l); /* may be NULL */
};

/* The head of every kind of link; the rest is the implementation's. */
struct link {
	const struct link_ops *ops;
	int fd; /* to poll */
	short wants; /* events that the last call waits for beside the caller's own */
	uint8_t print[LINK_PRINT_LEN]; /* the peer's fingerprint, once greeted */
	uint64_t sent, got; /* bytes on the wire */
	char reason[200];
	char where[80]; /* the other end's address, for the log */
};

/* Goes on with connecting and proving; true once both are done. */
int link_greet(struct link *l, bool *done_out);
/* As many as there are, at most n; 0 bytes: none now. */
int link_read(struct link *l, void *p, size_t n, size_t *n_out);
/* As many as there is room for; 0 bytes: none now. Bytes of one call of at most 16 KiB go in one
 * TLS record. After 0 the same bytes must be offered again. */
int link_write(struct link *l, const void *p, size_t n, size_t *n_out);
/* Microseconds in which the line was at work on what was written: not those in which it had
 * nothing, nor those in which the peer took nothing. A link that cannot tell gives the clock. */
uint64_t link_line_us(struct link *l);
/* Tells the peer that nothing more comes. */
void link_shut(struct link *l);
void link_close(struct link *l);
const char *link_reason(const struct link *l);

/* Our certificate and key, and which fingerprints are let in. */
struct link_tls;

/* Reads cert.pem and key.pem in the state folder. ERR_NOTFOUND, ERR_CERT (do not parse, do not
 * belong together), ERR_ACCESS (the key can be read by others), ERR_NOMEM; logged. */
int link_tls_open(const char *state, struct link_tls **out);
void link_tls_close(struct link_tls *tls);

/* Lets a fingerprint in. 0 or ERR_LIMIT. Before the first link. */
int link_tls_pin(struct link_tls *tls, const uint8_t print[LINK_PRINT_LEN]);

/* A link over a non-blocking socket that is connecting or connected; the socket is the link's
 * from here, also on failure. pin: the only one accepted, NULL for any that is let in. */
int link_tls_start(struct link_tls *tls, int fd, bool dialled, const uint8_t *pin,
	struct link **out);

#endif
