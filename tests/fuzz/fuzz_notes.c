/*
 * fuzz_notes.c - any bytes as the file of notes, as they are, or as the paths of lines whose sums
 * are right: what is read is a path, can be taken back, and then is gone.
 */
#include "meta/base/hash.h"
#include "meta/base/log.h"
#include "sync/notes.h"
#include "meta/base/buf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static char folder[] = "/tmp/fuzz-notes-XXXXXX";

static void
cleanup(void)
{
	char path[60];

	snprintf(path, sizeof(path), "%s/notes", folder);
	unlink(path);
	rmdir(folder);
}

static void
unheard(enum log_level level, const char *text)
{
	(void)level, (void)text;
}

static int
take_back(void *arg, const char *path)
{
	if (strlen(path) >= NOTES_MAX_PATH)
		abort();
	uint64_t mark = notes_mark(arg, path);
	if (mark == 0)
		abort();
	notes_settle(arg, path, mark);
	if (notes_mark(arg, path) != 0)
		abort();
	return 0;
}

static void
put_lines(struct buf *out, const char *p, size_t n)
{
	while (n > 0) {
		const char *end = memchr(p, '\n', n);
		size_t len = end != NULL ? (size_t)(end - p) : n;
		char sign = len > 0 && p[0] == '-' ? '-' : '+';
		buf_printf(out, "%c %08x %.*s\n", sign,
			hash_crc32(hash_crc32(0, &sign, 1), p, len), (int)len, p);
		p += len;
		n -= len;
		if (n > 0) {
			p++;
			n--;
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static bool made;
	struct buf file = BUF_INIT;
	struct notes *notes;
	char path[60];

	if (!made) {
		if (mkdtemp(folder) == NULL)
			abort();
		atexit(cleanup);
		made = true;
		log_set_hook(unheard);
	}
	if (n == 0)
		return 0;
	if (p[0] & 1)
		put_lines(&file, (const char *)p + 1, n - 1);
	else
		buf_put(&file, p + 1, n - 1);
	snprintf(path, sizeof(path), "%s/notes", folder);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, buf_str(&file), file.len) != (ssize_t)file.len)
		abort();
	close(fd);
	if (notes_open(folder, &notes) == 0) {
		if (notes_walk(notes, take_back, notes) != 0 || notes_count(notes) != 0)
			abort();
		notes_close(notes);
	}
	buf_fini(&file);
	return 0;
}
