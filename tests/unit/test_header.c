#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/header.h"
#include "meta/base/hash.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>

#define DEEP "%(T e Z ((((((((((x))))))))))\n"

static struct buf file;

/* The magic (taken from the encoder, its CRC is known) and then text. */
static void
make(const char *text)
{
	struct header empty = { .old_form = true };

	buf_clear(&file);
	header_encode(&empty, &file);
	file.len = 115;
	buf_put(&file, text, strlen(text));
}

static int
decode(const char *text, struct header *out)
{
	make(text);
	return header_decode(file.data, file.len, out);
}

TEST(magic)
{
	make("");
	CHECK_EQ(hash_crc32(0, file.data, 115), 0x8ad11d69);
}

TEST(new_form)
{
	struct header h;

	CHECK_EQ(decode("%(T e N user.alice I abc123 Q user.alice A %(alice "
			"lrswipkxtecdan anyone p \"a b\" \"\") U (one NIL $two))\n",
			 &h),
		0);
	CHECK(!h.old_form);
	CHECK_STR(h.type, "e");
	CHECK_STR(h.name, "user.alice");
	CHECK_STR(h.uniqueid, "abc123");
	CHECK_STR(h.quotaroot, "user.alice");
	CHECK_EQ(h.n_acl, 3);
	CHECK_STR(h.acl[1].id, "anyone");
	CHECK_STR(h.acl[1].rights, "p");
	CHECK_STR(h.acl[2].id, "a b");
	CHECK_STR(h.acl[2].rights, "");
	CHECK_STR(h.flags[0], "one");
	CHECK(h.flags[1] == NULL);
	CHECK_STR(h.flags[2], "$two");
	CHECK(h.flags[3] == NULL);
	header_fini(&h);
}

TEST(old_form)
{
	struct header h;

	CHECK_EQ(decode("user.bob\tdeadbeef\none two  three \nbob\tlrs\tanyone\tp\t\n",
			 &h),
		0);
	CHECK(h.old_form);
	CHECK(h.type == NULL && h.name == NULL);
	CHECK_STR(h.quotaroot, "user.bob");
	CHECK_STR(h.uniqueid, "deadbeef");
	CHECK_STR(h.flags[1], "two");
	CHECK(h.flags[2] == NULL);
	CHECK_STR(h.flags[3], "three");
	CHECK_EQ(h.n_acl, 2);
	CHECK_STR(h.acl[0].rights, "lrs");
	header_fini(&h);
}

/* Text that Cyrus writes comes back byte for byte. */
TEST(round_trip)
{
	static const char *const texts[] = {
		"%(T e N user.a I x A %())\n",
		"%(T el N NIL I x A %(a lrs))\n",
		"%(T ed N DELETED.user.x.6B034EB1 I x Q \"a b\" A %(a lrs) U (f))\n",
		"%(T e N \"NIL\" I \"\" A %(\"x y\" \"\" b p) U (NIL NIL f))\n",
		"%(T e N {4}\r\na%bc I x A %({2}\r\na\" l))\n",
		"%(T e N user.a I x J j-1 Q q A %(a l))\n",
		"user.a\tid\nf g \na\tlrs\tb\tp\t\n",
		"\tid\n\n\n",
		"quota\n\na\tl\t\n",
		"q\tid\n  f \na\tl\t\n",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct header h;
		struct buf out = BUF_INIT;
		CHECK_EQ(decode(texts[i], &h), 0);
		CHECK_EQ(header_encode(&h, &out), 0);
		CHECK_STR(buf_str(&out) + 115, texts[i]);
		buf_fini(&out);
		header_fini(&h);
	}
}

TEST(refused)
{
	static const char *const texts[] = { "", "x", "%", "%(", "%()", "%(T e)",
		"%(T e I x A (a b))\n", "%(T e I x A %(a))\n", "%(T e I x U (a)\n",
		"%(T e I x A %(a b))\nmore", "%(T  e I x)\n", "%(T \"e I x)\n",
		"%(T {9}\r\nab)\n", "%(T {99999999999}\r\nab)\n", DEEP, "a\tb\nf\n",
		"a\tb\nf \nacl\n", "a\tb\nf \nid\tr\t", "a\tb\tc\nf \n\n",
		"%(T e A %(NIL r))\n" };
	struct header h;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (decode(texts[i], &h) != ERR_MANGLED) {
			t_fail(__FILE__, __LINE__, "taken: %s", texts[i]);
			header_fini(&h);
		}
	/* Unknown keys are none of our business, whatever they hold. */
	CHECK_EQ(decode("%(T e X (a (b \"c\")) Y %(k (v) l {1}\r\n)) I x)\n", &h), 0);
	CHECK_STR(h.uniqueid, "x");
	header_fini(&h);
}

TEST(too_many_flags)
{
	struct buf text = BUF_INIT;
	struct header h;

	for (int n = 127; n <= 129; n++) {
		buf_clear(&text);
		buf_printf(&text, "%%(T e I x A %%() U (");
		for (int i = 0; i < n; i++)
			buf_printf(&text, i ? " f%d" : "f%d", i);
		buf_printf(&text, "))\n");
		CHECK_EQ(decode(buf_str(&text), &h), n <= 128 ? 0 : ERR_MANGLED);
		header_fini(&h);
	}
	buf_fini(&text);
}

TEST(owner)
{
	static const struct {
		const char *dir, *name, *owner;
	} rows[] = {
		{ "user/new/box", "user.old.box", "new" },
		{ "o/user/o^k", "user.old", "o.k" },
		{ "u/DELETED/user/new/6B", "user.old", "new" },
		{ "domain/e/ex.org/n/user/new", "ex.org!user.old", "new@ex.org" },
		{ "domain/ex.org/user/new", NULL, "new@ex.org" },
		{ "uuid/a/b/abc", "user.o^k.box", "o.k" },
		{ "uuid/a/b/abc", "DELETED.user.old.6B", "old" },
		{ "uuid/a/b/abc", "ex.org!user.old", "old@ex.org" },
		{ "uuid/a/b/abc", "shared.box", "" },
		{ "uuid/a/b/abc", NULL, "" },
	};
	char out[40];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct header h = { .name = (char *)(uintptr_t)rows[i].name };
		header_owner(&h, rows[i].dir, out, sizeof(out));
		CHECK_STR(out, rows[i].owner);
	}
	header_owner(NULL, "user/averyveryverylongname", out, 8);
	CHECK_STR(out, "averyve");
}

TEST(survives_anything)
{
	static const char *const seeds[] = {
		"%(T e N user.a I x Q q A %(a lrs \"b c\" p) U (f NIL g))\n",
		"user.a\tid\nf g \na\tlrs\tb\tp\t\n",
	};
	struct header h;

	for (int round = 0; round < 20000; round++) {
		make(seeds[round & 1]);
		for (int edits = 1 + (int)(t_rand() % 3); edits > 0; edits--)
			file.data[115 + t_rand() % (file.len - 115)] =
				round & 2 ? (uint8_t)t_rand()
					  : (uint8_t) "\"{}()% \n\t\\0"[t_rand() % 11];
		size_t n = 115 + t_rand() % (file.len - 114);
		uint8_t *exact = malloc(n);
		CHECK(exact != NULL);
		memcpy(exact, file.data, n);
		int rc = header_decode(exact, n, &h);
		CHECK(rc == 0 || rc == ERR_MANGLED);
		header_fini(&h);
		free(exact);
	}
	buf_fini(&file);
}

T_MAIN
