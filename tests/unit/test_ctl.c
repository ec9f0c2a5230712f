#include "fs/ctl.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static _Atomic int waiting, ended_with;
static char said[] = "said ";

static int
do_echo(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)call;
	buf_printf(out, "%s[%s]", (const char *)arg, args);
	return 0;
}

static int
do_refuse(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)arg, (void)call;
	if (ctl_arg_flag(args, "why"))
		buf_printf(out, "because");
	return ERR_ROLE;
}

static int
do_wait(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)arg, (void)args, (void)out;
	waiting++;
	while (ctl_call_pause(call, 10))
		continue;
	ended_with = ctl_call_code(call);
	waiting--;
	return ctl_call_code(call);
}

static int
do_big(void *arg, struct ctl_call *call, char *args, struct buf *out)
{
	(void)arg, (void)call, (void)args;
	for (int i = 0; i < 500000; i++)
		buf_printf(out, "%07d\n", i);
	return 0;
}

static struct ctl *
start(const char *state)
{
	struct ctl *ctl;

	if (ctl_new(&ctl) != 0)
		return NULL;
	ctl_add(ctl, "echo", do_echo, said);
	ctl_add(ctl, "refuse", do_refuse, NULL);
	ctl_add(ctl, "wait", do_wait, NULL);
	ctl_add(ctl, "big", do_big, NULL);
	int rc = ctl_start(ctl, state);
	if (rc != 0) {
		ctl_stop(ctl);
		return NULL;
	}
	return ctl;
}

/* Until cond, but not for ever: the runner's limit is far away. */
#define AWAIT(cond) \
	for (uint64_t t_end = clock_ms() + t_limit(10000); \
		!(cond) && clock_ms() < t_end;) \
	usleep(1000)

TEST(ask_and_answer)
{
	const char *state = t_tmpdir();
	struct ctl *ctl = start(state);
	struct buf out = BUF_INIT;
	struct stat st;
	char path[512];

	CHECK(ctl != NULL);
	snprintf(path, sizeof(path), "%s/control", state);
	CHECK_EQ(stat(path, &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0600);
	CHECK_EQ(ctl_ask(state, "echo a b=c", 5000, &out), 0);
	CHECK_STR(buf_str(&out), "said [a b=c]");
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), 0);
	CHECK_STR(buf_str(&out), "said []");
	CHECK_EQ(ctl_ask(state, "refuse", 5000, &out), ERR_ROLE);
	CHECK_STR(buf_str(&out), err_text(ERR_ROLE));
	CHECK_EQ(ctl_ask(state, "refuse why", 5000, &out), ERR_ROLE);
	CHECK_STR(buf_str(&out), "because");
	CHECK_EQ(ctl_ask(state, "nothing", 5000, &out), ERR_USAGE);
	CHECK(strstr(buf_str(&out), "no request \"nothing\"") != NULL);
	CHECK_EQ(ctl_ask(state, "big", 20000, &out), 0);
	CHECK_EQ(out.len, 4000000);
	CHECK_EQ(ctl_ask(state, "echo a\nb", 5000, &out), ERR_USAGE);
	CHECK_EQ(ctl_ask(state, "wait timeout=x", 5000, &out), ERR_USAGE);
	ctl_stop(ctl);
	CHECK(stat(path, &st) != 0);
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), ERR_NOTFOUND);
	buf_fini(&out);
}

TEST(waiting_ends)
{
	const char *state = t_tmpdir();
	struct ctl *ctl = start(state);
	struct buf out = BUF_INIT;

	CHECK(ctl != NULL);
	/* by its own timeout */
	CHECK_EQ(ctl_ask(state, "wait timeout=50", 5000, &out), ERR_TIMEOUT);
	AWAIT(waiting == 0);
	CHECK_EQ(ended_with, ERR_TIMEOUT);
	/* because the client went away */
	CHECK_EQ(ctl_ask(state, "wait", 50, &out), ERR_TIMEOUT);
	AWAIT(waiting == 0);
	CHECK_EQ(waiting, 0);
	CHECK_EQ(ended_with, ERR_CLOSED);
	/* because the server stops: the others are answered meanwhile */
	CHECK_EQ(ctl_ask(state, "wait", 50, &out), ERR_TIMEOUT);
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), 0);
	buf_fini(&out);
	ctl_stop(ctl);
	CHECK_EQ(waiting, 0);
}

struct asker {
	const char *state;
	int rc;
};

static void *
ask_main(void *arg)
{
	struct asker *a = arg;
	struct buf out = BUF_INIT;

	a->rc = ctl_ask(a->state, "wait", 10000, &out);
	buf_fini(&out);
	return NULL;
}

TEST(stop_answers_those_who_wait)
{
	struct asker a[3];
	pthread_t thread[3];
	struct ctl *ctl = start(t_tmpdir());

	CHECK(ctl != NULL);
	for (int i = 0; i < 3; i++) {
		a[i] = (struct asker){ t_tmpdir(), 0 };
		pthread_create(&thread[i], NULL, ask_main, &a[i]);
	}
	AWAIT(waiting == 3);
	CHECK_EQ(waiting, 3);
	ctl_stop(ctl);
	for (int i = 0; i < 3; i++) {
		pthread_join(thread[i], NULL);
		CHECK_EQ(a[i].rc, ERR_CLOSED);
	}
}

TEST(stale_socket_is_replaced)
{
	const char *state = t_tmpdir();
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct buf out = BUF_INIT;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/control", state);
	CHECK_EQ(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), ERR_CLOSED);
	struct ctl *ctl = start(state);
	CHECK(ctl != NULL);
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), 0);
	/* one that is served is not */
	CHECK(start(state) == NULL);
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), 0);
	buf_fini(&out);
	ctl_stop(ctl);
}

TEST(long_state_path)
{
	char state[1024];
	struct buf out = BUF_INIT;
	size_t n = (size_t)snprintf(state, sizeof(state), "%s/", t_tmpdir());

	memset(state + n, 'x', 200);
	state[n + 200] = '\0';
	CHECK_EQ(mkdir(state, 0700), 0);
	struct ctl *ctl = start(state);
	CHECK(ctl != NULL);
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), 0);
	ctl_stop(ctl);
	buf_fini(&out);
}

/* A client that sends anything at all gets an answer or is hung up on; the next one is served. */
TEST(any_request)
{
	const char *state = t_tmpdir();
	struct ctl *ctl = start(state);
	struct buf out = BUF_INIT;
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char junk[3000], back[256];

	CHECK(ctl != NULL);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/control", state);
	for (int i = 0; i < 300; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		CHECK_EQ(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		size_t n = t_rand() % sizeof(junk);
		for (size_t k = 0; k < n; k++)
			junk[k] = (char)(t_rand() % 64 == 0 ? '\n' : t_rand());
		send(fd, junk, n, MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		while (recv(fd, back, sizeof(back), 0) > 0)
			continue;
		close(fd);
	}
	CHECK_EQ(ctl_ask(state, "echo", 5000, &out), 0);
	buf_fini(&out);
	ctl_stop(ctl);
}

TEST(arguments)
{
	char v[8];

	CHECK_STR(ctl_arg("a b=1 bc=22", "bc", v, sizeof(v)), "22");
	CHECK_STR(ctl_arg("a b=1 bc=22", "b", v, sizeof(v)), "1");
	CHECK(ctl_arg("a b=1", "a", v, sizeof(v)) == NULL);
	CHECK(ctl_arg("", "a", v, sizeof(v)) == NULL);
	CHECK(ctl_arg_flag("force now", "now"));
	CHECK(!ctl_arg_flag("force nowhere", "now"));
}

T_MAIN
