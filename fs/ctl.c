/*
 * How it works: the socket is bound under a second name and renamed into place once it listens,
 * so a client never finds a name without a server behind it. Paths go through /proc/self/fd of
 * the state folder, because a socket's address holds 107 bytes and a folder's name may be
 * longer. The accepting thread hands each connection to a detached thread and counts it;
 * ctl_stop shuts all connections down, which ends every pause, and waits for the count to
 * reach nought.
 */
#include "fs/ctl.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CTL_NAME "control"
#define CTL_NAME_NEW "control.new"

enum { MAX_COMMANDS = 32, REQUEST_MS = 5000, ANSWER_MS = 30000 };

struct ctl_call {
	struct ctl *ctl;
	struct ctl_call *next;
	int fd;
	bool has_deadline;
	uint64_t deadline; /* clock_ms */
	int code; /* why pause said false */
};

struct ctl {
	struct {
		const char *name;
		ctl_fn *fn;
		void *arg;
	} commands[MAX_COMMANDS];
	unsigned n_commands;
	int dir, fd,
		wake; /* state folder, listening socket, eventfd that ends the thread */
	ino_t ino; /* of the socket, so that only our own is removed */
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t idle;
	struct ctl_call *calls;
	unsigned n_calls;
	bool stopping;
};

int
ctl_new(struct ctl **out)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));

	*out = ctl;
	if (ctl == NULL)
		return ERR_NOMEM;
	ctl->dir = ctl->fd = ctl->wake = -1;
	pthread_mutex_init(&ctl->lock, NULL);
	pthread_cond_init(&ctl->idle, NULL);
	return 0;
}

int
ctl_add(struct ctl *ctl, const char *name, ctl_fn *fn, void *arg)
{
	if (ctl->n_commands == MAX_COMMANDS)
		return ERR_LIMIT;
	ctl->commands[ctl->n_commands].name = name;
	ctl->commands[ctl->n_commands].fn = fn;
	ctl->commands[ctl->n_commands++].arg = arg;
	return 0;
}

/* The address of name in the folder dir, through /proc so that its length does not matter. */
static struct sockaddr_un
address(int dir, const char *name)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s", dir, name);
	return sa;
}

static int
connect_to(int dir, int *fd_out)
{
	struct sockaddr_un sa = address(dir, CTL_NAME);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*fd_out = -1;
	if (fd < 0)
		return err_from_errno(errno);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int rc = errno == ECONNREFUSED ? ERR_CLOSED : err_from_errno(errno);
		close(fd);
		return rc;
	}
	*fd_out = fd;
	return 0;
}

/* Waits until fd is ready for events; deadline in clock_ms. 0, ERR_TIMEOUT or ERR_IO. */
static int
await(int fd, short events, uint64_t deadline)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		uint64_t now = clock_ms();
		if (now >= deadline)
			return ERR_TIMEOUT;
		uint64_t left = deadline - now;
		int n = poll(&p, 1, left > 60000 ? 60000 : (int)left);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return ERR_IO;
	}
}

static int
send_all(int fd, const void *data, size_t len, uint64_t deadline)
{
	const char *at = data;

	while (len > 0) {
		int rc = await(fd, POLLOUT, deadline);
		if (rc != 0)
			return rc;
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return ERR_LINK;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

const char *
ctl_arg(const char *args, const char *name, char *out, size_t size)
{
	size_t n = strlen(name);

	for (const char *at = args; *at != '\0';) {
		at += strspn(at, " ");
		size_t len = strcspn(at, " ");
		if (len > n && strncmp(at, name, n) == 0 && at[n] == '=') {
			snprintf(out, size, "%.*s", (int)(len - n - 1), at + n + 1);
			return out;
		}
		at += len;
	}
	return NULL;
}

bool
ctl_arg_flag(const char *args, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = args; *at != '\0';) {
		at += strspn(at, " ");
		size_t len = strcspn(at, " ");
		if (len == n && strncmp(at, word, n) == 0)
			return true;
		at += len;
	}
	return false;
}

bool
ctl_call_pause(struct ctl_call *call, int ms)
{
	uint64_t end = clock_ms() + (uint64_t)ms;
	bool late = false;

	if (call->has_deadline && call->deadline <= end) {
		end = call->deadline;
		late = true;
	}
	do {
		/* The peer's hang-up and our own shutdown both show as POLLHUP or RDHUP. */
		struct pollfd p = { .fd = call->fd, .events = POLLRDHUP };
		uint64_t now = clock_ms();
		int n = poll(&p, 1, now < end ? (int)(end - now) : 0);
		if (n > 0) {
			call->code = ERR_CLOSED;
			return false;
		}
	} while (clock_ms() < end);
	if (late)
		call->code = ERR_TIMEOUT;
	return !late;
}

int
ctl_call_code(const struct ctl_call *call)
{
	return call->code != 0 ? call->code : ERR_CLOSED;
}

int64_t
ctl_call_left(const struct ctl_call *call)
{
	uint64_t now = clock_ms();

	if (!call->has_deadline)
		return INT64_MAX;
	return now < call->deadline ? (int64_t)(call->deadline - now) : 0;
}

/* Reads up to the newline; whatever comes behind it is an error of the client's. */
static int
read_line(int fd, char line[CTL_LINE_MAX])
{
	uint64_t deadline = clock_ms() + REQUEST_MS;
	size_t len = 0;

	for (;;) {
		int rc = await(fd, POLLIN, deadline);
		if (rc != 0)
			return rc;
		ssize_t n = recv(fd, line + len, CTL_LINE_MAX - len, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return ERR_LINK;
		len += (size_t)n;
		char *nl = memchr(line, '\n', len);
		if (nl != NULL) {
			bool clean =
				nl == line + len - 1 && memchr(line, '\0', len) == NULL;
			*nl = '\0';
			return clean ? 0 : ERR_USAGE;
		}
		if (len == CTL_LINE_MAX)
			return ERR_USAGE;
	}
}

static int
dispatch(struct ctl_call *call, char *line, struct buf *out)
{
	struct ctl *ctl = call->ctl;
	char number[24], *end;
	size_t n = strcspn(line, " ");
	char *args = line + n;

	if (*args != '\0')
		*args++ = '\0';
	if (ctl_arg(args, "timeout", number, sizeof(number)) != NULL) {
		errno = 0;
		unsigned long long ms = strtoull(number, &end, 10);
		if (errno != 0 || *end != '\0' || !isdigit((unsigned char)number[0]) ||
			ms > INT32_MAX) {
			buf_printf(out, "timeout: expected milliseconds, not \"%s\"",
				number);
			return ERR_USAGE;
		}
		call->has_deadline = true;
		call->deadline = clock_ms() + ms;
	}
	for (unsigned i = 0; i < ctl->n_commands; i++)
		if (strcmp(ctl->commands[i].name, line) == 0)
			return ctl->commands[i].fn(
				ctl->commands[i].arg, call, args, out);
	buf_printf(out, "no request \"%.60s\"", line);
	return ERR_USAGE;
}

static void
answer(struct ctl_call *call)
{
	struct buf out, head = BUF_INIT;
	char line[CTL_LINE_MAX];
	uint64_t deadline;
	int rc;

	buf_init(&out, CTL_ANSWER_MAX);
	rc = read_line(call->fd, line);
	if (rc == ERR_LINK || rc == ERR_TIMEOUT)
		goto out;
	if (rc != 0)
		buf_printf(&out, "expected one line of at most %d bytes", CTL_LINE_MAX);
	else
		rc = dispatch(call, line, &out);
	if (buf_ok(&out) != 0) {
		rc = ERR_LIMIT;
		buf_clear(&out);
	}
	if (rc != 0 && out.len == 0)
		buf_printf(&out, "%s", err_text(rc));
	if (rc == 0)
		buf_printf(&head, "ok %zu\n", out.len);
	else
		buf_printf(&head, "error %d %zu\n", rc, out.len);
	deadline = clock_ms() + ANSWER_MS;
	if (send_all(call->fd, head.data, head.len, deadline) == 0)
		send_all(call->fd, out.data, out.len, deadline);
out:
	buf_fini(&head);
	buf_fini(&out);
}

static void *
call_main(void *arg)
{
	struct ctl_call *call = arg;
	struct ctl *ctl = call->ctl;

	answer(call);
	pthread_mutex_lock(&ctl->lock);
	for (struct ctl_call **at = &ctl->calls; *at != NULL; at = &(*at)->next) {
		if (*at == call) {
			*at = call->next;
			break;
		}
	}
	close(call->fd);
	free(call);
	ctl->n_calls--;
	pthread_cond_broadcast(&ctl->idle);
	pthread_mutex_unlock(&ctl->lock);
	return NULL;
}

/* Takes fd over. */
static void
begin_call(struct ctl *ctl, int fd)
{
	static const char busy[] = "error -21 14\ntoo many calls";
	struct ctl_call *call = calloc(1, sizeof(*call));
	pthread_attr_t detached;
	pthread_t thread;
	bool full;

	pthread_mutex_lock(&ctl->lock);
	full = call == NULL || ctl->n_calls == CTL_CALLS_MAX || ctl->stopping;
	if (!full) {
		call->ctl = ctl;
		call->fd = fd;
		call->next = ctl->calls;
		ctl->calls = call;
		ctl->n_calls++;
	}
	pthread_mutex_unlock(&ctl->lock);
	if (full) {
		send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		close(fd);
		free(call);
		return;
	}
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &detached, call_main, call) != 0)
		call_main(call);
	pthread_attr_destroy(&detached);
}

static void *
accept_main(void *arg)
{
	struct ctl *ctl = arg;
	struct pollfd p[2] = { { .fd = ctl->fd, .events = POLLIN },
		{ .fd = ctl->wake, .events = POLLIN } };

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents != 0)
			break;
		int fd = accept4(ctl->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			begin_call(ctl, fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			poll(&p[1], 1, 100); /* a descriptor will be free again */
	}
	return NULL;
}

/* Nobody may be told the signals that the program's main thread waits for. */
static int
start_thread(struct ctl *ctl)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&ctl->thread, NULL, accept_main, ctl);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err != 0)
		log_err("cannot start a thread: %s", strerror(err));
	return err != 0 ? ERR_NOMEM : 0;
}

int
ctl_start(struct ctl *ctl, const char *state)
{
	struct sockaddr_un sa;
	struct stat st;
	int fd = -1, rc;

	ctl->dir = open(state, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ctl->dir < 0)
		return err_from_errno(errno);
	if (connect_to(ctl->dir, &fd) == 0) {
		close(fd);
		return ERR_BUSY;
	}
	ctl->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ctl->wake = eventfd(0, EFD_CLOEXEC);
	sa = address(ctl->dir, CTL_NAME_NEW);
	unlinkat(ctl->dir, CTL_NAME_NEW, 0);
	/* The mode is taken over by bind, so the name never exists with a wider one. */
	if (ctl->fd < 0 || ctl->wake < 0 || fchmod(ctl->fd, 0600) < 0 ||
		bind(ctl->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
		listen(ctl->fd, 64) < 0 ||
		fstatat(ctl->dir, CTL_NAME_NEW, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		renameat(ctl->dir, CTL_NAME_NEW, ctl->dir, CTL_NAME) < 0)
		return err_from_errno(errno);
	ctl->ino = st.st_ino;
	rc = start_thread(ctl);
	ctl->started = rc == 0;
	return rc;
}

void
ctl_stop(struct ctl *ctl)
{
	struct stat st;

	if (ctl == NULL)
		return;
	if (ctl->started) {
		uint64_t one = 1;
		while (write(ctl->wake, &one, sizeof(one)) < 0 && errno == EINTR)
			continue;
		pthread_join(ctl->thread, NULL);
	}
	pthread_mutex_lock(&ctl->lock);
	ctl->stopping = true;
	for (struct ctl_call *call = ctl->calls; call != NULL; call = call->next)
		shutdown(call->fd, SHUT_RD); /* the answer may still go out */
	while (ctl->n_calls > 0)
		pthread_cond_wait(&ctl->idle, &ctl->lock);
	pthread_mutex_unlock(&ctl->lock);
	if (ctl->dir >= 0 && ctl->ino != 0 &&
		fstatat(ctl->dir, CTL_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		st.st_ino == ctl->ino)
		unlinkat(ctl->dir, CTL_NAME, 0);
	if (ctl->fd >= 0)
		close(ctl->fd);
	if (ctl->wake >= 0)
		close(ctl->wake);
	if (ctl->dir >= 0)
		close(ctl->dir);
	pthread_cond_destroy(&ctl->idle);
	pthread_mutex_destroy(&ctl->lock);
	free(ctl);
}

/* The head of an answer, once its line is whole: 1 with code and length, 0 not yet, or an error. */
static int
parse_head(const struct buf *in, int *code_out, size_t *head_out, size_t *len_out)
{
	const char *nl = in->len > 0 ? memchr(in->data, '\n', in->len) : NULL;
	char line[64];
	size_t n = nl != NULL ? (size_t)(nl - (const char *)in->data) : in->len;

	if (n >= sizeof(line))
		return ERR_PROTO;
	if (nl == NULL)
		return 0;
	memcpy(line, in->data, n);
	line[n] = '\0';
	*code_out = 0;
	if (sscanf(line, "ok %zu", len_out) != 1 &&
		(sscanf(line, "error %d %zu", code_out, len_out) != 2 ||
			*code_out >= 0))
		return ERR_PROTO;
	*head_out = n + 1;
	return *len_out <= CTL_ANSWER_MAX ? 1 : ERR_PROTO;
}

static int
read_answer(int fd, uint64_t deadline, struct buf *out)
{
	size_t head = 0, len = 0;
	int code = 0, have = 0;

	for (;;) {
		have = parse_head(out, &code, &head, &len);
		if (have < 0)
			return have;
		if (have == 1 && out->len >= head + len) {
			buf_drop(out, head);
			return out->len == len ? code : ERR_PROTO;
		}
		int rc = await(fd, POLLIN, deadline);
		if (rc != 0)
			return rc;
		uint8_t *room = buf_room(out, 65536);
		if (room == NULL)
			return ERR_LIMIT;
		ssize_t n = recv(fd, room, 65536, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ERR_LINK;
		out->len += (size_t)n;
	}
}

int
ctl_ask(const char *state, const char *line, int timeout_ms, struct buf *out)
{
	uint64_t deadline =
		timeout_ms < 0 ? UINT64_MAX : clock_ms() + (uint64_t)timeout_ms;
	char request[CTL_LINE_MAX];
	int dir = -1, fd = -1, rc = 0, n;

	buf_clear(out);
	n = snprintf(request, sizeof(request), "%s\n", line);
	if (n >= (int)sizeof(request) || strchr(line, '\n') != NULL) {
		rc = ERR_USAGE;
		goto out;
	}
	dir = open(state, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		rc = err_from_errno(errno);
		goto out;
	}
	rc = connect_to(dir, &fd);
	if (rc != 0)
		goto out;
	rc = send_all(fd, request, (size_t)n, deadline);
	if (rc == 0)
		rc = read_answer(fd, deadline, out);
	if (rc == ERR_LINK || rc == ERR_PROTO)
		buf_clear(out);
out:
	if (rc != 0 && out->len == 0)
		buf_printf(out, "%s/%s: %s", state, CTL_NAME,
			rc == ERR_CLOSED || rc == ERR_NOTFOUND
				? "nobody serves this slot"
				: err_text(rc));
	if (fd >= 0)
		close(fd);
	if (dir >= 0)
		close(dir);
	return rc;
}
