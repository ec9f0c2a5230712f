#include "tests/lib/memlink.h"
#include "meta/base/err.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct mem {
	struct link link;
	bool stalled;
};

static int
lost(struct link *l, const char *why)
{
	snprintf(l->reason, sizeof(l->reason), "memory link: %s", why);
	return ERR_LINK;
}

static int
mem_greet(struct link *l, bool *done_out)
{
	l->wants = 0;
	*done_out = true;
	return 0;
}

static int
mem_read(struct link *l, void *p, size_t n, size_t *n_out)
{
	struct mem *m = (struct mem *)l;
	ssize_t done;

	l->wants = 0;
	if (m->stalled)
		return 0;
	done = recv(l->fd, p, n, 0);
	if (done < 0)
		return errno == EAGAIN ? 0 : lost(l, strerror(errno));
	if (done == 0)
		return lost(l, "closed by the peer");
	l->got += (uint64_t)done;
	*n_out = (size_t)done;
	return 0;
}

static int
mem_write(struct link *l, const void *p, size_t n, size_t *n_out)
{
	struct mem *m = (struct mem *)l;
	ssize_t done;

	l->wants = 0;
	if (m->stalled) {
		l->wants = POLLOUT;
		return 0;
	}
	done = send(l->fd, p, n, MSG_NOSIGNAL);
	if (done < 0 && errno == EAGAIN) {
		l->wants = POLLOUT;
		return 0;
	}
	if (done < 0)
		return lost(l, strerror(errno));
	l->sent += (uint64_t)done;
	*n_out = (size_t)done;
	return 0;
}

static void
mem_shut(struct link *l)
{
	shutdown(l->fd, SHUT_WR);
}

static void
mem_close(struct link *l)
{
	close(l->fd);
	free(l);
}

static const struct link_ops mem_ops = { mem_greet, mem_read, mem_write, mem_shut,
	mem_close, NULL };

struct link *
memlink_over(int fd, const uint8_t print[LINK_PRINT_LEN])
{
	struct mem *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return NULL;
	m->link.ops = &mem_ops;
	m->link.fd = fd;
	memcpy(m->link.print, print, LINK_PRINT_LEN);
	snprintf(m->link.where, sizeof(m->link.where), "memory");
	return &m->link;
}

int
memlink_pair(const uint8_t print_a[LINK_PRINT_LEN],
	const uint8_t print_b[LINK_PRINT_LEN], struct link **a_out, struct link **b_out)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) !=
		0)
		return ERR_IO;
	*a_out = memlink_over(fds[0], print_b);
	*b_out = memlink_over(fds[1], print_a);
	return *a_out != NULL && *b_out != NULL ? 0 : ERR_NOMEM;
}

void
memlink_cut(struct link *l)
{
	shutdown(l->fd, SHUT_RDWR);
}

void
memlink_stall(struct link *l, bool on)
{
	((struct mem *)l)->stalled = on;
}
