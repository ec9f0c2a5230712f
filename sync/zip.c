/*
 * zip.c - zlib, fed piece by piece.
 *
 * Z_PARTIAL_FLUSH closes the block and adds an empty fixed one (10 bits), where Z_SYNC_FLUSH adds
 * 4 to 5 bytes; for a change of forty bytes that is a twentieth of everything. The inflater needs
 * no byte boundary to hand out what is complete.
 */
#include "sync/zip.h"
#include "meta/base/err.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

/* At 5 mail that is like other mail gets a sixteenth smaller, and other mail a fiftieth, for a third more
 * work; at 6 for more than twice as much (docs/performance.md). */
enum { LEVEL_BEST = 4, LEVEL_FAST = 1, STEP = 16 << 10 };

/* Most useful last: zlib prefers near matches. Part of protocol version 1, never to be changed
 * without a feature bit. */
static const char dictionary[] =
	"multipart/mixed; multipart/alternative; boundary=\"----=_Part_--\r\n"
	"Content-Type: text/html; charset=\"utf-8\"\r\nContent-Disposition: "
	"attachment; "
	"filename=\"\r\nContent-Transfer-Encoding: base64\r\n"
	"X-Mailer: X-Spam-Status: No, score=X-Spam-Level: List-Id: <List-Unsubscribe: "
	"<mailto:"
	"List-Post: Precedence: list\r\nAuto-Submitted: no\r\nImportance: normal\r\n"
	"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; "
	"d=h=From:To:Subject:Date:"
	"Message-ID:MIME-Version:Content-Type; bh=b=Authentication-Results: dkim=pass "
	"header.d=spf=pass smtp.mailfrom=dmarc=pass\r\nUser-Agent: Mozilla/5.0 "
	"Thunderbird/\r\n"
	"Reply-To: In-Reply-To: <References: <Cc: Bcc: Sender: \r\n"
	"Mon, Tue, Wed, Thu, Fri, Sat, Sun, Jan Feb Mar Apr May Jun Jul Aug Sep Oct "
	"Nov Dec 2026 "
	"Received: from localhost ([127.0.0.1])\r\n\t by localhost (Cyrus 3.6.1) with "
	"LMTPA;\r\n\t "
	"Received: from [by with ESMTPS id for <\r\n"
	"X-Sieve: CMU Sieve 3.0\r\nReturn-Path: <>\r\nFrom: \"\" <@example.org>\r\nTo: "
	"<@example.com>\r\nSubject: Re: \r\nDate: +0000 +0200\r\nMessage-ID: "
	"<\r\nMIME-Version: "
	"1.0\r\nContent-Type: text/plain; charset=utf-8; format=flowed\r\n"
	"Content-Transfer-Encoding: quoted-printable\r\nContent-Transfer-Encoding: "
	"7bit\r\n\r\n";

struct zip_out {
	z_stream z;
	int level;
};

struct zip_in {
	z_stream z;
};

int
zip_out_open(struct zip_out **out)
{
	struct zip_out *z = calloc(1, sizeof(*z));

	*out = NULL;
	if (z == NULL)
		return ERR_NOMEM;
	z->level = LEVEL_BEST;
	if (deflateInit2(&z->z, z->level, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) !=
		Z_OK) {
		free(z);
		return ERR_NOMEM;
	}
	if (deflateSetDictionary(
		    &z->z, (const Bytef *)dictionary, sizeof(dictionary) - 1) != Z_OK) {
		zip_out_close(z);
		return ERR_NOMEM;
	}
	*out = z;
	return 0;
}

void
zip_out_close(struct zip_out *z)
{
	if (z == NULL)
		return;
	deflateEnd(&z->z);
	free(z);
}

/* The level may change between bytes of the stream; zlib first closes what it has begun. */
static int
set_level(struct zip_out *z, int level, struct buf *out)
{
	int rc = Z_BUF_ERROR;

	if (z->level == level)
		return 0;
	z->z.next_in = NULL;
	z->z.avail_in = 0;
	while (rc == Z_BUF_ERROR) {
		uint8_t *room = buf_room(out, STEP);
		if (room == NULL)
			return ERR_NOMEM;
		z->z.next_out = room;
		z->z.avail_out = STEP;
		rc = deflateParams(&z->z, level, Z_DEFAULT_STRATEGY);
		out->len += STEP - z->z.avail_out;
		if (rc == Z_BUF_ERROR && z->z.avail_out == STEP)
			break;
	}
	z->level = level;
	return 0;
}

int
zip_out_add(struct zip_out *z, const void *p, size_t n, bool flush,
	enum zip_effort effort, struct buf *out)
{
	const uint8_t *at = p;
	static const int levels[] = {
		[ZIP_NONE] = 0, [ZIP_FAST] = LEVEL_FAST, [ZIP_BEST] = LEVEL_BEST
	};
	int rc = set_level(z, levels[effort], out);

	if (rc != 0)
		return rc;
	do {
		size_t part = n < UINT_MAX / 2 ? n : UINT_MAX / 2;
		int how = flush && part == n ? Z_PARTIAL_FLUSH : Z_NO_FLUSH;

		z->z.next_in = (Bytef *)(uintptr_t)at;
		z->z.avail_in = (uInt)part;
		do {
			uint8_t *room = buf_room(out, STEP);
			if (room == NULL)
				return ERR_NOMEM;
			z->z.next_out = room;
			z->z.avail_out = STEP;
			if (deflate(&z->z, how) == Z_STREAM_ERROR)
				return ERR_NOMEM;
			out->len += STEP - z->z.avail_out;
		} while (z->z.avail_out == 0);
		at += part;
		n -= part;
	} while (n > 0);
	return 0;
}

int
zip_in_open(struct zip_in **out)
{
	struct zip_in *z = calloc(1, sizeof(*z));

	*out = NULL;
	if (z == NULL)
		return ERR_NOMEM;
	if (inflateInit2(&z->z, -15) != Z_OK) {
		free(z);
		return ERR_NOMEM;
	}
	if (inflateSetDictionary(
		    &z->z, (const Bytef *)dictionary, sizeof(dictionary) - 1) != Z_OK) {
		zip_in_close(z);
		return ERR_NOMEM;
	}
	*out = z;
	return 0;
}

void
zip_in_close(struct zip_in *z)
{
	if (z == NULL)
		return;
	inflateEnd(&z->z);
	free(z);
}

int
zip_in_add(struct zip_in *z, const void *p, size_t n, size_t room, struct buf *out,
	size_t *used_out, bool *full_out)
{
	size_t part = n < UINT_MAX / 2 ? n : UINT_MAX / 2;
	uint8_t *at = buf_room(out, room);
	int rc;

	*used_out = 0;
	*full_out = false;
	if (at == NULL)
		return ERR_NOMEM;
	z->z.next_in = (Bytef *)(uintptr_t)p;
	z->z.avail_in = (uInt)part;
	z->z.next_out = at;
	z->z.avail_out = (uInt)room;
	rc = inflate(&z->z, Z_SYNC_FLUSH);
	*used_out = part - z->z.avail_in;
	out->len += room - z->z.avail_out;
	*full_out = z->z.avail_out == 0;
	if (rc == Z_MEM_ERROR)
		return ERR_NOMEM;
	/* The sender never ends its stream; Z_BUF_ERROR only says that nothing was left to do. */
	if (rc != Z_OK && rc != Z_BUF_ERROR)
		return ERR_PROTO;
	return 0;
}
