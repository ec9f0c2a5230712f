/*
 * How it works: everything comes from /proc. A holder is a process with a descriptor of that
 * mount (fdinfo names the mount's id), a working or root folder or program below it, or a
 * mapping of its device. Processes in other mount namespaces have other ids for the same mount;
 * there the path decides, as far as it can be seen from here.
 */
#include "fs/unmount.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/base/path.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BUSY_TRIES = 10, BUSY_PAUSE_US = 100000, HOLDERS_MAX = 20 };

extern char **environ;

/* The kernel writes blanks, tabs, newlines and backslashes as three octal digits. */
static bool
unescape(const char *from, size_t n, char *out, size_t size)
{
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		char c = from[i];
		if (c == '\\' && i + 3 < n && from[i + 1] >= '0' &&
			from[i + 1] <= '3') {
			c = (char)((from[i + 1] - '0') << 6 | (from[i + 2] - '0') << 3 |
				   (from[i + 3] - '0'));
			i += 3;
		}
		if (len + 1 >= size)
			return false;
		out[len++] = c;
	}
	out[len] = '\0';
	return true;
}

/* The n-th word (from 0) of a line; its length, 0 if there is none. */
static size_t
word_at(const char *line, unsigned n, const char **out)
{
	for (;; n--) {
		line += strspn(line, " ");
		size_t len = strcspn(line, " \n");
		*out = line;
		if (n == 0 || len == 0)
			return len;
		line += len;
	}
}

/* id parent major:minor root path options [optional...] - type source options */
bool
unmount_parse(const char *line, struct mount_place *out)
{
	const char *root, *path, *type, *source, *dash = strstr(line, " - ");
	size_t n_path, n_source;

	if (dash == NULL || sscanf(line, "%" SCNu64 " %*u %u:%u", &out->id, &out->major,
				    &out->minor) != 3)
		return false;
	if (word_at(line, 3, &root) != 1 || *root != '/')
		return false;
	n_path = word_at(line, 4, &path);
	if (word_at(dash + 3, 0, &type) != strlen(MOUNT_TYPE) ||
		strncmp(type, MOUNT_TYPE, strlen(MOUNT_TYPE)) != 0)
		return false;
	n_source = word_at(dash + 3, 1, &source);
	return unescape(path, n_path, out->path, sizeof(out->path)) &&
	       unescape(source, n_source, out->source, sizeof(out->source));
}

/* Where even the end of realpath fails for a dead mount, its folder and its name will do. */
bool
unmount_real_path(const char *path, char out[MOUNT_PATH_MAX])
{
	char parent[MOUNT_PATH_MAX], real[PATH_MAX];
	const char *last;
	size_t n = strlen(path);
	char *slash;

	if (n == 0 || n >= sizeof(parent)) {
		errno = n == 0 ? ENOENT : ENAMETOOLONG;
		return false;
	}
	if (realpath(path, out) != NULL)
		return true;
	memcpy(parent, path, n + 1);
	while (n > 1 && parent[n - 1] == '/')
		parent[--n] = '\0';
	slash = strrchr(parent, '/');
	last = slash != NULL ? path + (slash + 1 - parent) : path;
	if (errno == ENOENT || n == 1 || strcmp(parent, ".") == 0)
		return false;
	if (slash != NULL)
		slash[slash == parent] = '\0';
	if (realpath(slash != NULL ? parent : ".", real) == NULL)
		return false;
	n = (size_t)snprintf(out, MOUNT_PATH_MAX, "%s/%.*s",
		strcmp(real, "/") == 0 ? "" : real, (int)strcspn(last, "/"), last);
	return n < MOUNT_PATH_MAX;
}

/* The id of the mount that a descriptor of a process leads into. */
static bool
mount_of_fd(const char *pid, const char *fd, uint64_t *id_out)
{
	char path[320], line[128];
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%s/fdinfo/%s", pid, fd);
	FILE *f = fopen(path, "re");
	if (f == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), f) != NULL)
		found = sscanf(line, "mnt_id: %" SCNu64, id_out) == 1;
	fclose(f);
	return found;
}

void
unmount_type_of(int fd, char *out, size_t size)
{
	char number[16], *line = NULL;
	uint64_t id, at;
	size_t cap = 0;
	FILE *f;

	snprintf(out, size, "?");
	snprintf(number, sizeof(number), "%d", fd);
	if (!mount_of_fd("self", number, &id) ||
		(f = fopen("/proc/self/mountinfo", "re")) == NULL)
		return;
	while (getline(&line, &cap, f) > 0) {
		const char *type, *dash = strstr(line, " - ");
		if (dash == NULL || sscanf(line, "%" SCNu64, &at) != 1 || at != id)
			continue;
		int n = (int)word_at(dash + 3, 0, &type);
		snprintf(out, size, "%.*s", n, type);
	}
	free(line);
	fclose(f);
}

int
unmount_find(const char *path, struct mount_place *out)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct mount_place at;
	char *line = NULL;
	size_t cap = 0;
	int rc = ERR_NOTFOUND;

	if (f == NULL)
		return ERR_IO;
	/* A later line lies on top of an earlier one. */
	while (getline(&line, &cap, f) > 0) {
		if (unmount_parse(line, &at) && strcmp(at.path, path) == 0) {
			*out = at;
			rc = 0;
		}
	}
	free(line);
	fclose(f);
	return rc;
}

/* Runs a program with its output thrown away; true if it ended with 0. */
static bool
run(const char *const argv[])
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;
	int status = -1, err;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(
		&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(
		&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(
		&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	err = posix_spawnp(&pid, argv[0], &files, &attr, (char *const *)argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	if (err != 0)
		return false;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void
unmount_register(const char *source, const char *path)
{
	const char *const argv[] = { "mount", "-i", "-f", "-t", MOUNT_TYPE, "-o",
		"uhelper=" MOUNT_TYPE, source, path, NULL };

	unmount_unregister(path); /* what a crash left would be a second entry */
	if (!run(argv))
		log_warn("mount not registered for umount(8): use `twinspool umount` "
			 "mountpoint=%s",
			path);
}

void
unmount_unregister(const char *path)
{
	const char *const argv[] = { "umount", "-i", "--fake", path, NULL };

	run(argv);
}

int
unmount_now(const char *path, bool lazy)
{
	for (int i = 0; umount2(path, UMOUNT_NOFOLLOW) < 0; i++) {
		if (errno == EINVAL || errno == ENOENT)
			break; /* gone already */
		if (errno != EBUSY)
			return err_from_errno(errno);
		if (lazy) {
			if (umount2(path, UMOUNT_NOFOLLOW | MNT_DETACH) == 0)
				break;
			return err_from_errno(errno);
		}
		if (i == BUSY_TRIES)
			return ERR_BUSY;
		usleep(BUSY_PAUSE_US);
	}
	unmount_unregister(path);
	return 0;
}

struct scan {
	const struct mount_place *place;
	struct buf *out;
	unsigned found;
	bool listed; /* this process has a line begun */
	char pid[24];
};

static void
hold(struct scan *s, const char *what)
{
	char path[64], name[64] = "?";

	if (!s->listed) {
		snprintf(path, sizeof(path), "/proc/%s/comm", s->pid);
		FILE *f = fopen(path, "re");
		if (f != NULL) {
			if (fgets(name, sizeof(name), f) != NULL)
				name[strcspn(name, "\n")] = '\0';
			fclose(f);
		}
		s->listed = true;
		s->found++;
		if (s->found <= HOLDERS_MAX)
			buf_printf(s->out, "%s %s:", s->pid, name);
	} else if (s->found <= HOLDERS_MAX) {
		buf_printf(s->out, ",");
	}
	if (s->found <= HOLDERS_MAX)
		buf_printf(s->out, " %s", what);
}

/* True if the link /proc/PID/name leads to the mount or below. */
static bool
link_within(const struct scan *s, const char *name)
{
	char path[300], to[MOUNT_PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%s/%s", s->pid, name);
	ssize_t n = readlink(path, to, sizeof(to) - 1);
	if (n < 0)
		return false;
	to[n] = '\0';
	return path_rest(to, s->place->path) != NULL;
}

static bool
fd_of_mount(const struct scan *s, const char *fd)
{
	uint64_t id;

	return mount_of_fd(s->pid, fd, &id) && id == s->place->id;
}

static void
scan_fds(struct scan *s)
{
	char path[64], name[280], what[300];
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%s/fd", s->pid);
	DIR *d = opendir(path);
	while (d != NULL && (e = readdir(d)) != NULL) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(name, sizeof(name), "fd/%s", e->d_name);
		if (!fd_of_mount(s, e->d_name) && !link_within(s, name))
			continue;
		snprintf(what, sizeof(what), "descriptor %s", e->d_name);
		hold(s, what);
	}
	if (d != NULL)
		closedir(d);
}

static void
scan_maps(struct scan *s)
{
	char path[64], *line = NULL;
	size_t cap = 0;
	unsigned ma, mi;
	uint64_t ino;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%s/maps", s->pid);
	FILE *f = fopen(path, "re");
	while (f != NULL && !found && getline(&line, &cap, f) > 0)
		found = sscanf(line, "%*s %*s %*s %x:%x %" SCNu64, &ma, &mi, &ino) ==
				3 &&
			ino != 0 && ma == s->place->major && mi == s->place->minor;
	if (found)
		hold(s, "mapped file");
	free(line);
	if (f != NULL)
		fclose(f);
}

unsigned
unmount_holders(const struct mount_place *place, struct buf *out)
{
	struct scan s = { .place = place, .out = out };
	DIR *d = opendir("/proc");
	struct dirent *e;

	while (d != NULL && (e = readdir(d)) != NULL) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(s.pid, sizeof(s.pid), "%.20s", e->d_name);
		s.listed = false;
		if (link_within(&s, "cwd"))
			hold(&s, "working folder");
		if (link_within(&s, "root"))
			hold(&s, "root folder");
		if (link_within(&s, "exe"))
			hold(&s, "program");
		scan_fds(&s);
		scan_maps(&s);
		if (s.listed && s.found <= HOLDERS_MAX)
			buf_printf(out, "\n");
	}
	if (d != NULL)
		closedir(d);
	if (s.found > HOLDERS_MAX)
		buf_printf(out, "and %u more\n", s.found - HOLDERS_MAX);
	return s.found;
}
