/* The clean stop's states, over a control socket, with layers below that do as they are told. */
#include "fs/ctl.h"
#include "fs/service.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct conf conf;
static _Atomic int shut, opened, waits, hang, wait_rc, prove_rc, shut_rc;
static _Atomic uint64_t clock_skew_us;

#define AWAIT(cond) \
	for (int t_i = 0; !(cond) && t_i < 10000; t_i++) \
	usleep(1000)

static int
fake_shut(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg, struct buf *why)
{
	(void)arg, (void)ms, (void)on, (void)on_arg;
	shut++;
	if (shut_rc != 0)
		buf_printf(why, "somebody writes");
	return shut_rc;
}

static void
fake_open(void *arg)
{
	(void)arg;
	opened++;
}

static const char *
fake_gate(void *arg)
{
	(void)arg;
	return shut > opened ? "shut" : "open";
}

static int
fake_wait(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg, struct buf *lack)
{
	(void)arg, (void)ms;
	waits++;
	while (hang && on(on_arg))
		usleep(1000);
	if (wait_rc != 0)
		buf_printf(lack, "peer b has 1 of 2");
	return hang ? ERR_CLOSED : wait_rc;
}

static int
fake_prove(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg, struct buf *lack)
{
	(void)arg, (void)ms, (void)on, (void)on_arg;
	if (prove_rc != 0)
		buf_printf(lack, "peer b differs");
	return prove_rc;
}

static uint64_t
skewed_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000 +
	       clock_skew_us;
}

static bool
start(void)
{
	static const struct service_ops ops = { .shut = fake_shut,
		.open = fake_open,
		.gate = fake_gate,
		.wait = fake_wait,
		.prove = fake_prove };
	struct service_conf sc = { .conf = &conf, .ops = &ops, .supervisor = 4711 };

	shut = opened = waits = hang = wait_rc = prove_rc = shut_rc = 0;
	clock_skew_us = 0;
	clock_set_source(skewed_us);
	memset(&conf, 0, sizeof(conf));
	snprintf(conf.state, sizeof(conf.state), "%s", t_tmpdir());
	snprintf(conf.name, sizeof(conf.name), "a");
	snprintf(conf.mountpoint, sizeof(conf.mountpoint), "/no/mount");
	conf.stop_wait = 1000;
	return service_start(&sc) == 0;
}

static int
ask(const char *line, const char *expect)
{
	struct buf b = BUF_INIT;
	int rc = ctl_ask(conf.state, line, 10000, &b);

	if (expect != NULL && strstr(buf_str(&b), expect) == NULL)
		t_fail(__FILE__, __LINE__, "%s: answered \"%s\"", line, buf_str(&b));
	buf_fini(&b);
	return rc;
}

TEST(drained_then_unmounted)
{
	CHECK(start());
	CHECK_EQ(ask("drained", NULL), ERR_CLOSED);
	CHECK_EQ(ask("status json", "\"gate\":\"open\""), 0);
	CHECK_EQ(ask("drain", NULL), 0);
	CHECK_EQ(ask("drained", NULL), 0);
	CHECK_EQ(ask("status json", "\"gate\":\"shut\""), 0);
	CHECK_EQ(shut, 1);
	CHECK_EQ(opened, 0);
	CHECK(service_stop());
	clock_set_source(NULL);
}

TEST(not_drained_is_not_clean)
{
	CHECK(start());
	CHECK(!service_stop());
	clock_set_source(NULL);
}

TEST(resumed)
{
	CHECK(start());
	CHECK_EQ(ask("resume", NULL), 0);
	CHECK_EQ(opened, 0);
	CHECK_EQ(ask("drain", NULL), 0);
	CHECK_EQ(ask("resume", NULL), 0);
	CHECK_EQ(opened, 1);
	CHECK_EQ(ask("drained", NULL), ERR_CLOSED);
	CHECK(!service_stop());
	clock_set_source(NULL);
}

/* Each step that fails opens the gate again and says why. */
TEST(failures_open_again)
{
	CHECK(start());
	t_expect_log("not drained: somebody writes");
	shut_rc = ERR_BUSY;
	CHECK_EQ(ask("drain", "somebody writes"), ERR_BUSY);
	CHECK_EQ(opened, 1);
	CHECK_EQ(waits, 0);
	shut_rc = 0;
	t_expect_log("not drained: peer b has 1 of 2");
	wait_rc = ERR_TIMEOUT;
	CHECK_EQ(ask("drain timeout=50", "peer b has 1 of 2"), ERR_TIMEOUT);
	CHECK_EQ(opened, 2);
	wait_rc = 0;
	t_expect_log("not drained: peer b differs");
	prove_rc = ERR_SUM;
	CHECK_EQ(ask("drain", "peer b differs"), ERR_SUM);
	CHECK_EQ(opened, 3);
	CHECK_EQ(ask("drained", NULL), ERR_CLOSED);
	prove_rc = 0;
	CHECK_EQ(ask("drain", NULL), 0);
	CHECK(service_stop());
	clock_set_source(NULL);
}

static void *
drain_main(void *arg)
{
	struct buf b = BUF_INIT;

	*(int *)arg = ctl_ask(conf.state, "drain", 200, &b);
	buf_fini(&b);
	return NULL;
}

/* The one who asked goes away while it runs; another one that asks meanwhile is told. */
TEST(abandoned)
{
	pthread_t thread;
	int rc = 0;

	CHECK(start());
	hang = 1;
	t_expect_log("not drained: closed");
	CHECK_EQ(pthread_create(&thread, NULL, drain_main, &rc), 0);
	AWAIT(waits == 1);
	CHECK_EQ(ask("drain", "somebody else drains it"), ERR_EXISTS);
	CHECK_EQ(ask("status json", "\"gate\":\"shut\""), 0);
	pthread_join(thread, NULL);
	CHECK_EQ(rc, ERR_TIMEOUT);
	AWAIT(opened == 1);
	CHECK_EQ(opened, 1);
	hang = 0;
	CHECK(!service_stop());
	clock_set_source(NULL);
}

TEST(forgotten)
{
	CHECK(start());
	CHECK_EQ(ask("drain", NULL), 0);
	t_expect_log("drained but not unmounted");
	clock_skew_us = (uint64_t)(SERVICE_DRAINED_MS + 1000) * 1000;
	AWAIT(opened == 1);
	CHECK_EQ(opened, 1);
	CHECK_EQ(ask("drained", NULL), ERR_CLOSED);
	CHECK(!service_stop());
	clock_set_source(NULL);
}

TEST(stopping_ends_a_wait)
{
	pthread_t thread;
	int rc = 0;

	CHECK(start());
	hang = 1;
	t_expect_log("not drained: closed");
	CHECK_EQ(pthread_create(&thread, NULL, drain_main, &rc), 0);
	AWAIT(waits == 1);
	CHECK(!service_stop());
	pthread_join(thread, NULL);
	CHECK(rc == ERR_CLOSED || rc == ERR_TIMEOUT);
	clock_set_source(NULL);
}

TEST(pids_and_wait)
{
	CHECK(start());
	CHECK_EQ(ask("pids", "4711 "), 0);
	CHECK_EQ(ask("wait timeout=100", NULL), 0);
	wait_rc = ERR_TIMEOUT;
	CHECK_EQ(ask("wait timeout=100", "peer b has 1 of 2"), ERR_TIMEOUT);
	service_stop();
	clock_set_source(NULL);
}

T_MAIN
