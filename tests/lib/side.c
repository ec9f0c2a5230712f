#include "tests/lib/side.h"

#include "meta/base/hash.h"
#include "sync/link.h"

#include <stdio.h>

static void
on_hello(void *node, struct session *s, struct wire_hello *h)
{
	struct side *x = node;

	(void)s;
	h->spool_id = x->as_active ? "a" : "b";
	h->role = x->as_active ? SYNC_ACTIVE : SYNC_STANDBY;
	h->epoch = h->run = x->as_active;
	h->features |= x->features;
}

static void
on_up(void *node, struct session *s)
{
	struct side *x = node;

	x->up = s;
	x->ups++;
}

static void
on_down(void *node, struct session *s, int code, const char *text)
{
	struct side *x = node;

	(void)s, (void)code;
	snprintf(x->ended, sizeof(x->ended), "%s", text);
	x->up = NULL;
}

static void
on_drained(void *node, struct session *s)
{
	(void)node, (void)s;
}

static bool
no_room(void *node, struct session *s)
{
	(void)s;
	return ((struct side *)node)->deaf;
}

static int
take(void *node, struct session *s, const void *msg)
{
	(void)node, (void)s, (void)msg;
	return 0;
}

static int
on_start(void *node, struct session *s, const void *msg)
{
	(void)s, (void)msg;
	((struct side *)node)->starts++;
	return 0;
}

static int
on_batch(void *node, struct session *s, const void *msg)
{
	(void)s;
	((struct side *)node)->last_batch = ((const struct wire_batch *)msg)->seq;
	return 0;
}

static int
on_body(void *node, struct session *s, const void *msg)
{
	(void)s;
	((struct side *)node)->body_bytes += ((const struct wire_body *)msg)->data.n;
	return 0;
}

static int
on_gone(void *node, struct session *s, const void *msg)
{
	(void)s, (void)msg;
	((struct side *)node)->gones++;
	return 0;
}

static int
on_need(void *node, struct session *s, const void *msg)
{
	struct side *x = node;

	(void)s;
	memcpy(x->needed, ((const struct wire_need *)msg)->guid, SHA1_LEN);
	x->needs++;
	return 0;
}

static int
on_ack(void *node, struct session *s, const void *msg)
{
	struct side *side = node;

	(void)s;
	side->acked = *(const struct wire_ack *)msg;
	side->early_acks += side->acked.applied < side->acked.received;
	return 0;
}

static int
on_diff(void *node, struct session *s, const void *msg)
{
	(void)s;
	((struct side *)node)->named +=
		(unsigned)((const struct wire_diff *)msg)->list.n;
	return 0;
}

static int
on_records(void *node, struct session *s, const void *msg)
{
	struct side *x = node;

	(void)s, (void)msg;
	x->records++;
	memset(&x->confirmed, 0, sizeof(x->confirmed));
	return 0;
}

static int
on_confirm(void *node, struct session *s, const void *msg)
{
	struct wire_confirm *most = &((struct side *)node)->confirmed;
	const struct wire_confirm *m = msg;

	(void)s;
	if (m->received > most->received)
		most->received = m->received;
	if (m->flushed > most->flushed)
		most->flushed = m->flushed;
	if (m->applied > most->applied)
		most->applied = m->applied;
	return 0;
}

static const struct session_ops own = { .hello = on_hello,
	.up = on_up,
	.down = on_down,
	.drained = on_drained,
	.no_room = no_room,
	.handlers = { [WIRE_START] = on_start,
		[WIRE_BATCH] = on_batch,
		[WIRE_BODY] = on_body,
		[WIRE_GONE] = on_gone,
		[WIRE_NEED] = on_need,
		[WIRE_ACK] = on_ack,
		[WIRE_SUMS] = take,
		[WIRE_DIFF] = on_diff,
		[WIRE_LIST] = take,
		[WIRE_RECORDS] = on_records,
		[WIRE_QUARANTINE] = take,
		[WIRE_VERIFY] = take,
		[WIRE_WANT] = take,
		[WIRE_CONFIRM] = on_confirm } };

void
side_open(struct side *x, struct duo *d)
{
	struct side clean = { .as_active = x->as_active,
		.features = x->features,
		.without = x->without,
		.deaf = x->deaf,
		.ops = own };
	struct hub_peer_conf pc = { .name = x->as_active ? "b" : "a" };
	const char *print = x->as_active ? d->print_b : d->print_a;
	char at[40];

	for (unsigned i = 0; i < WIRE_TYPES; i++)
		if ((clean.hears[i] = x->hears[i]) != NULL)
			clean.ops.handlers[i] = x->hears[i];
	*x = clean;
	snprintf(at, sizeof(at), "127.0.0.1:%u", d->port);
	pc.address = x->as_active ? at : "";
	if (loop_open(&x->loop) != 0 ||
		link_tls_open(x->as_active ? d->state_a : d->state_b, &x->tls) != 0 ||
		hash_unhex(print + strlen("sha256:"), pc.fingerprint,
			sizeof(pc.fingerprint)) != 0)
		t_fail(__FILE__, __LINE__, "no side");
	struct hub_conf conf = { .loop = x->loop,
		.name = x->as_active ? "a" : "b",
		.listen = x->as_active ? NULL : at,
		.tls = x->tls,
		.peers = &pc,
		.n_peers = 1,
		.ops = &x->ops,
		.node = x,
		.without = x->without };
	CHECK_EQ(hub_open(&conf, &x->hub), 0);
}

void
side_close(struct side *x)
{
	hub_close(x->hub, 100);
	link_tls_close(x->tls);
	loop_close(x->loop);
}

void
side_turn(struct side *x, uint64_t ms)
{
	for (uint64_t end = clock_ms() + ms; clock_ms() < end;)
		loop_turn(x->loop, 10);
}
