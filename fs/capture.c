/*
 * capture.c - the plain mount: every change passes, a sync is the backing file's sync.
 */
#include "fs/capture.h"

#include <errno.h>
#include <unistd.h>

int
capture_name_begin(struct cap_name *op)
{
	op->done = false;
	return 0;
}

void
capture_name_end(struct cap_name *op, int err)
{
	(void)op;
	(void)err;
}

int
capture_write_begin(struct inode *ino, int fd, off_t off, size_t len)
{
	(void)ino;
	(void)fd;
	(void)off;
	(void)len;
	return 0;
}

void
capture_write_end(struct inode *ino, int fd, off_t off, const void *data, ssize_t done)
{
	(void)ino;
	(void)fd;
	(void)off;
	(void)data;
	(void)done;
}

int
capture_fsync(struct inode *ino, int fd, bool datasync)
{
	(void)ino;
	return (datasync ? fdatasync(fd) : fsync(fd)) == 0 ? 0 : errno;
}

int
capture_attr_begin(struct inode *ino, int fd, int to_set, const struct stat *st)
{
	(void)ino;
	(void)fd;
	(void)to_set;
	(void)st;
	return 0;
}

void
capture_attr_end(struct inode *ino, int fd, int to_set, int err)
{
	(void)ino;
	(void)fd;
	(void)to_set;
	(void)err;
}

int
capture_xattr_begin(struct inode *ino, int fd, const char *name)
{
	(void)ino;
	(void)fd;
	(void)name;
	return 0;
}

void
capture_xattr_end(struct inode *ino, int fd, const char *name, int err)
{
	(void)ino;
	(void)fd;
	(void)name;
	(void)err;
}

void
capture_lookup(struct inode *parent, const char *name, struct inode *ino)
{
	(void)parent;
	(void)name;
	(void)ino;
}
