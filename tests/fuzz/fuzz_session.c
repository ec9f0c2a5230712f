/*
 * fuzz_session.c - any bytes from a peer, the way they take through a session: HELLO, then one
 * deflate stream cut into frames. The first byte says whether a good HELLO goes before them, and
 * whether they are deflated first, so that the frames themselves can be anything.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/link.h"
#include "sync/loop.h"
#include "sync/session.h"
#include "sync/zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static struct link line;
static struct buf input;
static size_t at;
static int alive, ups;
static bool was_up;

static int
greet(struct link *l, bool *done_out)
{
	l->wants = 0;
	*done_out = true;
	return 0;
}

static int
take(struct link *l, void *p, size_t n, size_t *n_out)
{
	if (at == input.len) {
		snprintf(l->reason, sizeof(l->reason), "the end");
		return ERR_LINK;
	}
	*n_out = n < input.len - at ? n : input.len - at;
	memcpy(p, input.data + at, *n_out);
	at += *n_out;
	return 0;
}

static int
swallow(struct link *l, const void *p, size_t n, size_t *n_out)
{
	(void)l, (void)p;
	*n_out = n;
	return 0;
}

static void
nothing(struct link *l)
{
	(void)l;
}

static const struct link_ops link_ops = { greet, take, swallow, nothing, nothing,
	NULL };

static void
hello(void *node, struct session *s, struct wire_hello *h)
{
	(void)node, (void)s;
	h->epoch = 1;
}

static int
judge(void *node, struct session *s, const struct wire_hello *h)
{
	(void)node, (void)s, (void)h;
	return 0;
}

static void
up(void *node, struct session *s)
{
	struct wire_start m = { 1, 1, 1, WIRE_MODE_STREAM };

	(void)node;
	ups++;
	was_up = true;
	session_send(s, WIRE_START, &m);
}

static void
down(void *node, struct session *s, int code, const char *text)
{
	(void)node, (void)s, (void)code, (void)text;
	ups--;
}

static void
drained(void *node, struct session *s)
{
	(void)node, (void)s;
}

static uint64_t
last(void *node)
{
	(void)node;
	return 1;
}

static int
any(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	return 0;
}

static int
who(void *owner, const uint8_t fingerprint[32], const char **name_out)
{
	(void)owner, (void)fingerprint;
	*name_out = "b";
	return 0;
}

static void
ended(void *owner, struct session *s, int code)
{
	(void)owner, (void)s, (void)code;
	alive--;
}

static void
unheard(enum log_level level, const char *text)
{
	(void)level, (void)text;
}

static void
fill(const uint8_t *p, size_t n, unsigned how)
{
	struct wire_hello h = { .proto_min = WIRE_PROTO_MIN,
		.proto_max = WIRE_PROTO_MAX,
		.features = WIRE_FEATURES,
		.name = "b",
		.boot = 2,
		.epoch = 1 };
	struct zip_out *z;

	buf_clear(&input);
	if ((how & 1) != 0 && wire_encode(WIRE_HELLO, WIRE_PROTO_MIN, &h, &input) != 0)
		abort();
	if ((how & 2) == 0) {
		buf_put(&input, p, n);
		return;
	}
	if (zip_out_open(&z) != 0 || zip_out_add(z, p, n, true, ZIP_FAST, &input) != 0)
		abort();
	zip_out_close(z);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct session_ops ops = { hello, judge, up, down, drained, NULL, last,
		{ NULL } };
	struct session_conf conf = {
		.name = "a", .boot = 1, .ops = &ops, .who = who, .ended = ended
	};
	struct session *s;

	for (unsigned type = WIRE_START; type < WIRE_TYPES; type++)
		ops.handlers[type] = any;
	log_set_hook(unheard);
	if (n == 0 || loop_open(&conf.loop) != 0)
		return 0;
	fill(p + 1, n - 1, p[0]);
	at = 0;
	memset(&line, 0, sizeof(line));
	line.ops = &link_ops;
	line.fd = eventfd(1, EFD_CLOEXEC);
	alive = 1;
	was_up = false;
	if (session_open(&conf, &line, (p[0] & 4) != 0, &s) != 0)
		abort();
	for (int turns = 0; alive > 0 && turns < 1000; turns++)
		loop_turn(conf.loop, 0);
	if (alive != 0 || ups != 0 || was_up < ((p[0] & 1) != 0))
		abort();
	loop_close(conf.loop);
	close(line.fd);
	return 0;
}
