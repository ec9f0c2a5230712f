/*
 * inode_handle.c - file handles, and the paths and names that lead to them.
 *
 * A handle is what name_to_handle_at gives: it finds the file again whatever it is called by then,
 * as long as it has a name or somebody has it open. For a file without a name that somebody is the
 * entry's pin, and then the pin is opened anew through /proc/self/fd.
 */
#include "fs/inode_own.h"

#include "fs/slot.h"
#include "fs/unmount.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

union handle_space {
	struct file_handle h;
	uint8_t space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

int
inode_handle_at(int dirfd, const char *name, struct slot_handle *out)
{
	union handle_space u = { .h.handle_bytes = MAX_HANDLE_SZ };
	int mount_id;

	memset(out, 0, sizeof(*out));
	if (name_to_handle_at(dirfd, name, &u.h, &mount_id,
		    name[0] == '\0' ? AT_EMPTY_PATH : 0) != 0)
		return errno == ENOENT ? 0 : errno;
	if (u.h.handle_bytes > INODE_HANDLE_MAX)
		return EOVERFLOW;
	out->type = u.h.handle_type;
	out->len = u.h.handle_bytes;
	memcpy(out->bytes, u.h.f_handle, u.h.handle_bytes);
	return 0;
}

int
inode_open_handle(const struct inode *ino, int flags)
{
	union handle_space u = { .h.handle_bytes = ino->handle_len,
		.h.handle_type = ino->handle_type };
	char path[40];
	int pin = inode_own(ino)->pin - 1;

	if (pin >= 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", pin);
		if ((flags & O_PATH) != 0)
			return fcntl(pin, F_DUPFD_CLOEXEC, 0);
		return open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	}
	memcpy(u.h.f_handle, ino->handle, ino->handle_len);
	return open_by_handle_at(inode_tab.root_fd, &u.h, flags | O_CLOEXEC);
}

int
inode_probe(int root_fd)
{
	struct slot_handle h;
	union handle_space u;
	char type[64];
	int err, fd;

	err = inode_handle_at(root_fd, "", &h);
	if (err == 0) {
		memset(&u, 0, sizeof(u));
		u.h.handle_bytes = h.len;
		u.h.handle_type = h.type;
		memcpy(u.h.f_handle, h.bytes, h.len);
		fd = open_by_handle_at(root_fd, &u.h, O_PATH | O_CLOEXEC);
		err = fd < 0 ? errno : 0;
		if (fd >= 0)
			close(fd);
	}
	if (err == 0)
		return 0;
	unmount_type_of(root_fd, type, sizeof(type));
	log_err("the spool's filesystem cannot open files by handle, or this process "
		"may not type=%s error=%s",
		type, strerror(err));
	return ERR_CONF;
}

int
inode_peek(struct inode *dir, const char *name, struct stat *st_out,
	struct inode **ino_out)
{
	struct slot_handle h;
	int dirfd, err, fd;

	*ino_out = NULL;
	err = inode_fd(dir, INODE_ANY, &dirfd);
	if (err != 0)
		return err;
	fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, st_out) != 0)
		err = errno;
	if (err == 0)
		err = inode_handle_at(fd, "", &h);
	if (err == 0)
		*ino_out = inode_by_handle(&h);
	if (fd >= 0)
		close(fd);
	inode_fd_put(dir, dirfd);
	return err;
}

static int
fd_path(int fd, char *buf, size_t size)
{
	char link[40];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, buf, size);
	if (n < 0)
		return errno;
	if ((size_t)n >= size)
		return ENAMETOOLONG;
	buf[n] = '\0';
	return 0;
}

bool
inode_is_gone(int err)
{
	return err == ENOENT || err == ESTALE || err == ENOTDIR || err == ELOOP ||
	       err == ENAMETOOLONG;
}

int
inode_path(struct inode *dir, char *buf, size_t size)
{
	char root[PATH_MAX], full[PATH_MAX];
	const char *rest;
	struct stat st;
	int fd, err;

	err = inode_fd(dir, INODE_ANY, &fd);
	if (err != 0)
		return err;
	err = fstat(fd, &st) != 0 ? errno : st.st_nlink == 0 ? ENOENT : 0;
	if (err == 0)
		err = fd_path(fd, full, sizeof(full));
	if (err == 0)
		err = fd_path(inode_tab.root_fd, root, sizeof(root));
	inode_fd_put(dir, fd);
	if (err != 0)
		return err;
	rest = path_rest(full, strcmp(root, "/") == 0 ? "" : root);
	if (rest == NULL)
		return ENOENT; /* moved out of the spool behind our back */
	rest += *rest == '/';
	if (strlen(rest) >= size)
		return ENAMETOOLONG;
	memcpy(buf, rest, strlen(rest) + 1);
	return 0;
}
