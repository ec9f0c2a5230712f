#include "tests/lib/badline.h"
#include "sync/loop.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 16 << 10 };

/* One end of a connection, and the bytes that are to be written to it. */
struct end {
	struct conn *conn;
	struct end *other;
	struct loop_fd fd;
	struct buf pending;
	struct loop_timer stall; /* nothing is written to it meanwhile */
	bool eof; /* nothing more comes from it */
};

struct conn {
	struct badline *line;
	struct conn *next, **at;
	struct end a, b;
};

struct badline {
	struct loop *loop;
	struct loop_fd listener;
	unsigned port, target;
	_Atomic unsigned count; /* asked for by any thread */
	uint64_t rng;
	struct badline_faults faults;
	struct conn *conns;
};

static uint64_t
draw(struct badline *l)
{
	l->rng ^= l->rng << 13;
	l->rng ^= l->rng >> 7;
	l->rng ^= l->rng << 17;
	return l->rng;
}

static bool
one_in(struct badline *l, unsigned n)
{
	bool yes = n > 0 && draw(l) % n == 0;

	l->count += yes;
	return yes;
}

static void
end_close(struct loop *loop, struct end *e)
{
	loop_fd_del(loop, &e->fd);
	loop_timer_clear(loop, &e->stall);
	close(e->fd.fd);
	buf_fini(&e->pending);
}

static void
conn_close(struct conn *c)
{
	*c->at = c->next;
	if (c->next != NULL)
		c->next->at = c->at;
	end_close(c->line->loop, &c->a);
	end_close(c->line->loop, &c->b);
	free(c);
}

/* Writes what waits for this end. False: the connection is gone. */
static bool
push(struct end *e)
{
	e->other->fd.events = e->pending.len > 0 || e->other->eof ? 0 : POLLIN;
	if (e->stall.on)
		return true;
	while (e->pending.len > 0) {
		ssize_t n =
			send(e->fd.fd, e->pending.data, e->pending.len, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			e->fd.events |= POLLOUT;
			return true;
		}
		if (n < 0) {
			conn_close(e->conn);
			return false;
		}
		buf_drop(&e->pending, (size_t)n);
	}
	e->fd.events &= (short)~POLLOUT;
	if (e->other->eof)
		shutdown(e->fd.fd, SHUT_WR);
	else
		e->other->fd.events |= POLLIN;
	if (e->eof && e->other->eof && e->other->pending.len == 0) {
		conn_close(e->conn);
		return false;
	}
	return true;
}

static void
on_stall_over(void *arg)
{
	push(arg);
}

/* A piece has come from e: what happens to it on the way? */
static void
carry(struct end *e, uint8_t *p, size_t n)
{
	struct badline *l = e->conn->line;
	struct end *to = e->other;

	if (one_in(l, l->faults.cut)) {
		conn_close(e->conn);
		return;
	}
	if (one_in(l, l->faults.flip))
		p[draw(l) % n] ^= (uint8_t)(1u << draw(l) % 8);
	if (l->faults.stall_ms > 0 && one_in(l, l->faults.stall))
		loop_timer_set(l->loop, &to->stall, 1 + draw(l) % l->faults.stall_ms);
	buf_put(&to->pending, p, n);
	push(to);
}

static void
on_end(void *arg, short revents)
{
	struct end *e = arg;
	struct badline *l = e->conn->line;
	uint8_t bytes[PIECE];
	size_t most = l->faults.piece > 0 && l->faults.piece < PIECE ? l->faults.piece
								     : PIECE;

	if ((revents & POLLOUT) != 0 && !push(e))
		return;
	if ((revents & ~POLLOUT) == 0)
		return;
	ssize_t n = recv(e->fd.fd, bytes, most, 0);
	if (n > 0) {
		carry(e, bytes, (size_t)n);
	} else if (n == 0) {
		e->eof = true;
		e->fd.events &= (short)~POLLIN;
		push(e->other);
	} else if (errno != EAGAIN) {
		conn_close(e->conn);
	}
}

static void
end_init(struct conn *c, struct end *e, struct end *other, int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	e->conn = c;
	e->other = other;
	e->fd = (struct loop_fd){ .fd = fd, .events = POLLIN, .fn = on_end, .arg = e };
	e->stall = (struct loop_timer){ .fn = on_stall_over, .arg = e };
	loop_fd_add(c->line->loop, &e->fd);
}

static struct sockaddr_in
loopback(unsigned port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port) };

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return sin;
}

static void
on_listen(void *arg, short revents)
{
	struct badline *l = arg;
	struct sockaddr_in sin = loopback(l->target);
	int fd = accept4(l->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct conn *c;
	int out;

	(void)revents;
	if (fd < 0)
		return;
	/* Loopback answers at once, so this may block. */
	out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	c = calloc(1, sizeof(*c));
	if (c == NULL || connect(out, (struct sockaddr *)&sin, sizeof(sin)) != 0) {
		free(c);
		close(fd);
		close(out);
		return;
	}
	fcntl(out, F_SETFL, O_NONBLOCK);
	c->line = l;
	c->next = l->conns;
	c->at = &l->conns;
	if (l->conns != NULL)
		l->conns->at = &c->next;
	l->conns = c;
	end_init(c, &c->a, &c->b, fd);
	end_init(c, &c->b, &c->a, out);
}

int
badline_open(
	struct loop *loop, unsigned target_port, uint64_t seed, struct badline **out)
{
	struct badline *l = calloc(1, sizeof(*l));
	struct sockaddr_in sin = loopback(0);
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	*out = NULL;
	if (l == NULL || fd < 0 ||
		bind(fd, (struct sockaddr *)&sin, sizeof(sin)) != 0 ||
		listen(fd, 16) != 0 ||
		getsockname(fd, (struct sockaddr *)&sin, &len) != 0) {
		free(l);
		return ERR_IO;
	}
	l->loop = loop;
	l->port = ntohs(sin.sin_port);
	l->target = target_port;
	l->rng = seed | 1;
	l->listener = (struct loop_fd){
		.fd = fd, .events = POLLIN, .fn = on_listen, .arg = l
	};
	loop_fd_add(loop, &l->listener);
	*out = l;
	return 0;
}

void
badline_cut(struct badline *l)
{
	while (l->conns != NULL)
		conn_close(l->conns);
}

void
badline_close(struct badline *l)
{
	if (l == NULL)
		return;
	badline_cut(l);
	loop_fd_del(l->loop, &l->listener);
	close(l->listener.fd);
	free(l);
}

unsigned
badline_port(const struct badline *l)
{
	return l->port;
}

void
badline_set(struct badline *l, const struct badline_faults *faults)
{
	l->faults = *faults;
}

unsigned
badline_count(const struct badline *l)
{
	return l->count;
}
