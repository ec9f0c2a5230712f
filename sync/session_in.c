/*
 * session_in.c - bytes to messages.
 *
 * Deflated bytes are inflated into `in` in small steps, and whole frames are taken off its front
 * after each: so a small input that inflates to much never lies in memory as a whole, and a frame
 * that is over its limit ends the session on its first bytes.
 */
#include "sync/session_priv.h"
#include "meta/base/err.h"

#include <stdio.h>

enum { INFLATE_STEP = 64 << 10 };

static void
on_bye(struct session *s, const struct wire_bye *bye)
{
	char text[sizeof(s->reason)], *at;

	/* The peer's words go into our log: one line of them, printable. */
	snprintf(text, sizeof(text), "the peer says: %s: %.180s",
		wire_bye_text(bye->code), bye->text);
	for (at = text; *at != '\0'; at++)
		if ((unsigned char)*at < 0x20 || *at == '"' || *at == 0x7f)
			*at = '?';
	session_lose(s,
		bye->code == WIRE_BYE_STOP || bye->code == WIRE_BYE_DUPLICATE
			? ERR_CLOSED
			: ERR_PEER,
		text);
}

static int
dispatch(struct session *s, unsigned type, const union wire_any *msg)
{
	session_handler *fn = s->conf.ops->handlers[type];

	if (type == WIRE_BYE) {
		on_bye(s, &msg->bye);
		return 0;
	}
	if (type == WIRE_START)
		s->where |= WIRE_FED;
	if (type == WIRE_HEARTBEAT && fn == NULL)
		return 0;
	if (fn == NULL)
		return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
			"nobody here takes %s", wire_kind(type)->name);
	return fn(s->conf.node, s, msg);
}

/* One whole frame. */
static void
on_frame(struct session *s, const struct wire_frame *f, const uint8_t *fields)
{
	const struct wire_kind *k = wire_kind(f->type);
	struct rec_mem mem = { 0 };
	union wire_any msg;
	int rc;

	s->stats.got[f->type].messages++;
	s->stats.got[f->type].bytes += f->head + f->body;
	s->stats.raw_got += f->head + f->body;
	rc = wire_decode(f->type, s->version, fields, f->body, &mem, &msg);
	if (rc == 0)
		rc = dispatch(s, f->type, &msg);
	else if (rc != ERR_NOMEM)
		rc = session_reject(s, rc, WIRE_BYE_PROTO,
			"%s does not parse: bytes=%zu", k->name, f->body);
	if (rc != 0)
		session_end_rejected(s, rc);
	rec_mem_fini(&mem);
}

bool
session_in_front(struct session *s, const uint8_t *p, size_t n, struct wire_frame *f)
{
	int rc = wire_peek(p, n, s->version, f);

	if (rc != 0) {
		session_end(s, rc == ERR_VERSION ? WIRE_BYE_VERSION : WIRE_BYE_PROTO,
			rc == ERR_VERSION ? "a message of an unknown type"
					  : "garbage, or a frame over its limit");
		return false;
	}
	if (f->type == 0)
		return false;
	if ((wire_feature(f->type) & ~session_features(s)) != 0) {
		session_end(s, WIRE_BYE_VERSION,
			"%s without the feature: features=%#llx",
			wire_kind(f->type)->name,
			(unsigned long long)session_features(s));
		return false;
	}
	if ((wire_kind(f->type)->when & s->where) == 0) {
		session_end(s, WIRE_BYE_PROTO, "%s may not come now: state=%s",
			wire_kind(f->type)->name, session_state(s));
		return false;
	}
	return n - f->head >= f->body;
}

/* Takes whole frames off the front of `in`. */
static void
take_frames(struct session *s)
{
	size_t off = 0;
	struct wire_frame f;

	while (!session_ending(s) &&
		session_in_front(s, s->in.data + off, s->in.len - off, &f)) {
		on_frame(s, &f, s->in.data + off + f.head);
		off += f.head + f.body;
	}
	buf_drop(&s->in, off);
	session_shrink(&s->in);
}

void
session_in_feed(struct session *s, const uint8_t *p, size_t n)
{
	bool full = true;

	while (!session_ending(s) && (n > 0 || full)) {
		size_t used;
		int rc =
			zip_in_add(s->zip_in, p, n, INFLATE_STEP, &s->in, &used, &full);

		if (rc != 0) {
			session_end(s,
				rc == ERR_PROTO ? WIRE_BYE_PROTO : WIRE_BYE_INTERNAL,
				"cannot inflate: %s", err_text(rc));
			return;
		}
		p += used;
		n -= used;
		take_frames(s);
	}
}
