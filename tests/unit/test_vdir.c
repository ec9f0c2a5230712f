/* The hidden folder: contents fixed at lookup, nodes counted and bounded, lists that resume. */
#include "fs/vdir.h"
#include "tests/lib/t.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int counter;

static int
fill_counter(void *arg, const char *mailbox, struct buf *out)
{
	(void)arg;
	(void)mailbox;
	buf_printf(out, "%d\n", ++counter);
	return 0;
}

static int
fill_name(void *arg, const char *mailbox, struct buf *out)
{
	(void)arg;
	buf_printf(out, "name of %s\n", mailbox);
	return 0;
}

static int
fill_refused(void *arg, const char *mailbox, struct buf *out)
{
	(void)arg;
	(void)mailbox;
	buf_printf(out, "half");
	return EIO;
}

static int
fill_size(void *arg, const char *mailbox, struct buf *out)
{
	(void)mailbox;
	uint8_t *p = buf_room(out, *(size_t *)arg);
	if (p == NULL)
		return ENOMEM;
	memset(p, 'x', *(size_t *)arg);
	out->len += *(size_t *)arg;
	return 0;
}

static bool
has(void *arg, const char *id)
{
	(void)arg;
	return id[0] == 'm';
}

static void
each(void *arg, void (*fn)(void *fn_arg, const char *id), void *fn_arg)
{
	char id[16];

	(void)arg;
	for (int i = 0; i < 100; i++) {
		snprintf(id, sizeof(id), "m%d", i);
		fn(fn_arg, id);
	}
}

static void
setup(void)
{
	static const struct vdir_mailboxes boxes = { NULL, has, each };

	counter = 0;
	vdir_stop();
	vdir_start(3, 100, 200);
	vdir_add("status", fill_counter, NULL);
	vdir_add("broken", fill_refused, NULL);
	vdir_add_mailbox("name", fill_name, NULL);
	vdir_set_mailboxes(&boxes);
}

static bool
holds(uint64_t nodeid, const char *text)
{
	const uint8_t *p;
	size_t n;

	if (vdir_get(nodeid, &p, &n) != 0)
		return false;
	bool same = n == strlen(text) && memcmp(p, text, n) == 0;
	vdir_put(nodeid);
	return same;
}

/* With the node's number for st_ino, since that is what most of these tests are about. */
static int
look(uint64_t dir, const char *name, struct stat *st, bool *keep)
{
	uint64_t nodeid = 0;
	int rc = vdir_lookup(dir, name, &nodeid, st, keep);

	st->st_ino = nodeid;
	return rc;
}

TEST(a_path_keeps_its_inode_number)
{
	uint64_t a, b, boxes, box;
	struct stat sa, sb;
	bool keep;

	setup();
	CHECK_EQ(vdir_lookup(VDIR_ROOT, "status", &a, &sa, &keep), 0);
	CHECK_EQ(vdir_lookup(VDIR_ROOT, "status", &b, &sb, &keep), 0);
	CHECK(a != b);
	CHECK_EQ(sa.st_ino, sb.st_ino);
	CHECK_EQ(vdir_stat(b, &sa), 0);
	CHECK_EQ(sa.st_ino, sb.st_ino);
	CHECK_EQ(vdir_lookup(VDIR_ROOT, "mailboxes", &boxes, &sa, &keep), 0);
	CHECK_EQ(vdir_lookup(boxes, "m1", &box, &sa, &keep), 0);
	CHECK_EQ(vdir_lookup(box, "name", &a, &sa, &keep), 0);
	CHECK_EQ(vdir_lookup(boxes, "m2", &box, &sb, &keep), 0);
	CHECK_EQ(vdir_lookup(box, "name", &b, &sb, &keep), 0);
	CHECK(sa.st_ino != sb.st_ino);
	vdir_stop();
}

TEST(each_lookup_is_a_new_file)
{
	struct stat a, b;
	bool keep;

	setup();
	CHECK_EQ(look(VDIR_ROOT, "status", &a, &keep), 0);
	CHECK(!keep);
	CHECK(vdir_owns(a.st_ino));
	CHECK_EQ(a.st_mode, S_IFREG | 0400);
	CHECK_EQ(a.st_uid, 100);
	CHECK_EQ(a.st_size, 2);
	CHECK_EQ(look(VDIR_ROOT, "status", &b, &keep), 0);
	CHECK(a.st_ino != b.st_ino);
	CHECK(holds(a.st_ino, "1\n"));
	CHECK(holds(b.st_ino, "2\n"));
	CHECK(holds(a.st_ino, "1\n"));
	CHECK_EQ(vdir_stat(a.st_ino, &b), 0);
	CHECK_EQ(b.st_size, 2);
	CHECK_EQ(look(VDIR_ROOT, "none", &b, &keep), ENOENT);
	CHECK_EQ(look(a.st_ino, "status", &b, &keep), ENOTDIR);
	CHECK_EQ(look(VDIR_ROOT, "broken", &b, &keep), EIO);
	vdir_stop();
}

TEST(nodes_go_when_forgotten)
{
	struct stat a;
	const uint8_t *p;
	size_t n;
	bool keep;

	setup();
	CHECK_EQ(look(VDIR_ROOT, "status", &a, &keep), 0);
	CHECK_EQ(vdir_nodes(), 1);
	CHECK_EQ(vdir_get(a.st_ino, &p, &n), 0);
	vdir_forget(a.st_ino, 1);
	CHECK_EQ(vdir_nodes(), 1); /* still held */
	CHECK_EQ(p[0], '1');
	vdir_put(a.st_ino);
	CHECK_EQ(vdir_nodes(), 0);
	CHECK_EQ(vdir_get(a.st_ino, &p, &n), ESTALE);
	CHECK_EQ(vdir_stat(a.st_ino, &a), ESTALE);
	vdir_forget(VDIR_ROOT, 7); /* fixed ones stay */
	CHECK_EQ(vdir_stat(VDIR_ROOT, &a), 0);
	CHECK_EQ(vdir_get(VDIR_ROOT, &p, &n), EISDIR);
	vdir_stop();
}

TEST(numbers_do_not_come_back_after_a_death)
{
	struct stat a, b;
	bool keep;

	setup();
	CHECK_EQ(look(VDIR_ROOT, "status", &a, &keep), 0);
	vdir_stop();
	vdir_start(4, 100, 200);
	vdir_add("status", fill_counter, NULL);
	CHECK_EQ(vdir_stat(a.st_ino, &b), ESTALE);
	for (int i = 0; i < 1000; i++) {
		CHECK_EQ(look(VDIR_ROOT, "status", &b, &keep), 0);
		CHECK(a.st_ino != b.st_ino);
	}
	vdir_stop();
}

TEST(mailboxes)
{
	struct stat dir, again, f;
	bool keep;

	setup();
	CHECK_EQ(look(VDIR_ROOT, "mailboxes", &dir, &keep), 0);
	CHECK(keep);
	CHECK_EQ(look(dir.st_ino, "other", &f, &keep), ENOENT);
	uint64_t boxes = dir.st_ino;
	CHECK_EQ(look(boxes, "m7", &dir, &keep), 0);
	CHECK_EQ(dir.st_mode, S_IFDIR | 0700);
	CHECK_EQ(look(boxes, "m7", &again, &keep), 0);
	CHECK_EQ(dir.st_ino, again.st_ino);
	CHECK_EQ(look(dir.st_ino, "name", &f, &keep), 0);
	CHECK(holds(f.st_ino, "name of m7\n"));
	vdir_forget(dir.st_ino, 1);
	CHECK_EQ(vdir_stat(dir.st_ino, &again), 0);
	vdir_forget(dir.st_ino, 1);
	CHECK_EQ(vdir_stat(dir.st_ino, &again), ESTALE);
	vdir_stop();
}

TEST(bounded_in_bytes)
{
	static size_t size = (size_t)20 << 20;
	struct stat a;
	bool keep;
	int rc = 0, n = 0;

	setup();
	vdir_add("big", fill_size, &size);
	while ((rc = look(VDIR_ROOT, "big", &a, &keep)) == 0)
		n++;
	CHECK_EQ(rc, ENFILE);
	CHECK_EQ(n, 3);
	size = VDIR_BYTES_MAX + 1;
	CHECK_EQ(look(VDIR_ROOT, "big", &a, &keep), ENOMEM);
	for (n = 0; n < 100 * 1000 && look(VDIR_ROOT, "status", &a, &keep) == 0; n++)
		continue;
	CHECK(n < 100 * 1000); /* a small one takes room, too */
	vdir_stop();
	CHECK_EQ(vdir_nodes(), 0);
}

/* A shell that asks for a file of every mailbox: the kernel forgets none of them soon. */
TEST(many_mailboxes)
{
	struct stat boxes, dir, again, f;
	char id[64];
	bool keep;

	setup();
	CHECK_EQ(look(VDIR_ROOT, "mailboxes", &boxes, &keep), 0);
	for (int i = 0; i < 20000; i++) {
		snprintf(id, sizeof(id), "m%d-0123456789-0123456789", i);
		CHECK_EQ(look(boxes.st_ino, id, &dir, &keep), 0);
		CHECK_EQ(look(dir.st_ino, "name", &f, &keep), 0);
	}
	CHECK_EQ(vdir_nodes(), 40000);
	CHECK_EQ(look(boxes.st_ino, id, &again, &keep), 0);
	CHECK_EQ(dir.st_ino, again.st_ino);
	vdir_forget(dir.st_ino, 2);
	CHECK_EQ(look(boxes.st_ino, id, &again, &keep), 0);
	CHECK(dir.st_ino != again.st_ino);
	vdir_stop();
}

struct seen {
	char names[4096];
	int n, limit;
	uint64_t next;
};

static bool
take(void *arg, const char *name, mode_t mode, uint64_t ino, uint64_t next)
{
	struct seen *s = arg;

	if (s->n == s->limit || ino == 0 || (!S_ISDIR(mode) && !S_ISREG(mode)))
		return false;
	s->n++;
	s->next = next;
	strcat(strcat(s->names, name), " ");
	return true;
}

TEST(lists_resume_where_they_stopped)
{
	struct seen s = { .limit = 100 };
	struct stat dir;
	bool keep;

	setup();
	CHECK_EQ(vdir_list(VDIR_ROOT, 0, take, &s), 0);
	CHECK_STR(s.names, ". .. status broken mailboxes ");
	struct seen parts = { .limit = 0 };
	for (int total = -1; total != parts.n;) {
		total = parts.n;
		parts.limit = total + 2;
		CHECK_EQ(vdir_list(VDIR_ROOT, parts.next, take, &parts), 0);
	}
	CHECK_STR(parts.names, s.names);
	CHECK_EQ(look(VDIR_ROOT, "mailboxes", &dir, &keep), 0);
	struct seen boxes = { .limit = 1000 };
	CHECK_EQ(vdir_list(dir.st_ino, 0, take, &boxes), 0);
	CHECK_EQ(boxes.n, 102);
	CHECK_EQ(vdir_list(VDIR_BIT | 999, 0, take, &boxes), ESTALE);
	vdir_stop();
}

T_MAIN
