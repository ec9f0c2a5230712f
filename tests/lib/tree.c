#include "tests/lib/tree.h"
#include "tests/lib/t.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[300];
char tree_said[4096], tree_text[8192];

void
tree_begin(const char *folder)
{
	char line[700];

	snprintf(root, sizeof(root), "%s", folder);
	snprintf(line, sizeof(line), "rm -rf %s && mkdir -m 700 %s", root, root);
	if (system(line) != 0)
		abort();
}

const char *
tree_path(const char *name)
{
	static char path[4][1100];
	static int next;

	if (name[0] == '/')
		return name;
	next = (next + 1) % 4;
	snprintf(path[next], sizeof(path[next]), "%s/%s", root, name);
	return path[next];
}

static void
make_folders(const char *name)
{
	char part[700];

	for (const char *slash = name; (slash = strchr(slash, '/')) != NULL; slash++) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - name), name);
		mkdir(tree_path(part), 0700);
	}
}

void
tree_put(const char *name, const void *p, size_t n)
{
	make_folders(name);
	int fd = open(tree_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		abort();
	close(fd);
}

static void
read_all(const char *path, struct buf *out)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	buf_clear(out);
	do {
		uint8_t *at = buf_room(out, 65536);
		n = at && fd >= 0 ? read(fd, at, 65536) : -1;
		if (n > 0)
			out->len += (size_t)n;
	} while (n > 0);
	if (n < 0)
		abort();
	close(fd);
}

void
tree_get(const char *name, struct buf *out)
{
	read_all(tree_path(name), out);
}

void
tree_get_golden(const char *name, struct buf *out)
{
	char path[1100];

	snprintf(path, sizeof(path), "%s/%s", t_golden(), name);
	read_all(path, out);
}

void
tree_put_golden(const char *golden, const char *folder)
{
	struct buf b = BUF_INIT;
	char from[400], name[700];

	snprintf(from, sizeof(from), "%s/%s", t_golden(), golden);
	DIR *d = opendir(from);
	if (d == NULL)
		abort();
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", golden, e->d_name);
		tree_get_golden(name, &b);
		snprintf(name, sizeof(name), "%s/%s", folder, e->d_name);
		tree_put(name, b.data, b.len);
	}
	closedir(d);
	buf_fini(&b);
}

void
tree_forget(void)
{
	tree_said[0] = tree_text[0] = '\0';
}

void
tree_note(void *arg, const struct fsck_finding *f)
{
	size_t n = strlen(tree_said), k = strlen(tree_text);
	char uid[12] = "";

	(void)arg;
	if (f->uid != 0)
		snprintf(uid, sizeof(uid), "%u ", f->uid);
	snprintf(tree_text + k, sizeof(tree_text) - k, "%s %s%s %c %s\n", f->mailbox,
		uid, f->check, f->class, f->text);
	if (strstr(tree_said, f->check) == NULL)
		snprintf(tree_said + n, sizeof(tree_said) - n, "%s;", f->check);
}
