/*
 * spool_walk.c - one walk over a whole tree, for a spool that was never mounted before.
 *
 * Depth first, a folder before what is in it. One descriptor is open for each level; a tree
 * deeper than DEPTH_MAX is refused rather than followed.
 */
#include "meta/spool.h"

#include "meta/base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_LIMIT 4096
#define DEPTH_MAX 128

struct walk {
	struct spool *sp;
	spool_walk_fn *fn;
	void *arg;
	char path[PATH_LIMIT];
};

static bool
ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && strcmp(s + n - m, end) == 0;
}

static bool
skipped(const char *name, unsigned depth)
{
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		ends_with(name, ".NEW"))
		return true;
	return depth == 0 &&
	       (strcmp(name, "stage.") == 0 || strcmp(name, "sync.") == 0 ||
		       strcmp(name, ".twinspool") == 0);
}

bool
spool_name_is_mbox(const char *name)
{
	/* cyrus.squat and what old releases left travel as files. */
	static const char *const own[] = { "header", "index", "cache", "annotations" };
	size_t digits = strspn(name, "0123456789");

	if (digits > 0 && name[0] != '0' && strcmp(name + digits, ".") == 0)
		return true;
	if (strncmp(name, "cyrus.", 6) != 0)
		return false;
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		size_t n = strlen(own[i]);
		if (strncmp(name + 6, own[i], n) == 0 &&
			(name[6 + n] == '\0' || strcmp(name + 6 + n, ".NEW") == 0))
			return true;
	}
	return false;
}

bool
spool_dir_is_mbox(struct spool *sp, const char *dir)
{
	struct stat st;

	return spool_stat(sp, dir, "cyrus.header", &st) == 0 ||
	       spool_stat(sp, dir, "cyrus.index", &st) == 0;
}

/* w->path is the folder (n bytes), already reported. */
static int
walk(struct walk *w, size_t n, unsigned depth, bool mbox)
{
	struct dirent *e;
	struct stat st;
	int fd, rc;

	if (depth > DEPTH_MAX)
		return ERR_LIMIT;
	rc = spool_file(w->sp, w->path, NULL, O_RDONLY | O_DIRECTORY, 0, &fd);
	if (rc != 0)
		return rc;
	DIR *d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return ERR_NOMEM;
	}
	while (rc == 0 && (errno = 0, e = readdir(d)) != NULL) {
		size_t len = strlen(e->d_name);
		if (skipped(e->d_name, depth) ||
			(mbox && spool_name_is_mbox(e->d_name)))
			continue;
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno != ENOENT)
				rc = err_from_errno(errno);
			continue;
		}
		if (!S_ISDIR(st.st_mode)) {
			rc = w->fn(w->arg, w->path, e->d_name, false, &st);
			continue;
		}
		if (n + 1 + len >= sizeof(w->path)) {
			rc = ERR_LIMIT;
			continue;
		}
		snprintf(w->path + n, sizeof(w->path) - n, "%s%s", n > 0 ? "/" : "",
			e->d_name);
		size_t below = strlen(w->path);
		bool is_mbox = spool_dir_is_mbox(w->sp, w->path);
		if (is_mbox) {
			rc = w->fn(w->arg, w->path, NULL, true, &st);
		} else {
			w->path[n] = '\0';
			rc = w->fn(w->arg, w->path, e->d_name, false, &st);
			snprintf(w->path + n, sizeof(w->path) - n, "%s%s",
				n > 0 ? "/" : "", e->d_name);
		}
		if (rc == 0)
			rc = walk(w, below, depth + 1, is_mbox);
		w->path[n] = '\0';
	}
	if (rc == 0 && errno != 0)
		rc = err_from_errno(errno);
	closedir(d);
	return rc;
}

int
spool_walk(struct spool *sp, spool_walk_fn *fn, void *arg)
{
	struct walk *w = calloc(1, sizeof(*w));
	int rc;

	if (w == NULL)
		return ERR_NOMEM;
	w->sp = sp;
	w->fn = fn;
	w->arg = arg;
	rc = walk(w, 0, 0, false);
	free(w);
	return rc;
}
