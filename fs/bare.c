/*
 * bare.c - the immutable flag (chattr +i) on the folder itself, set by path before the mount covers it.
 *
 * The flag forbids names to be made or taken in the folder, to root as well, and stays on the disk;
 * mounting on the folder needs no write to it. Other flags are kept. It needs CAP_LINUX_IMMUTABLE
 * and a filesystem with flags; every failure means that the folder stays as it was, so none counts.
 */
#include "fs/bare.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

void
bare_guard(const char *path)
{
	int flags, fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && !(flags & FS_IMMUTABLE_FL)) {
		flags |= FS_IMMUTABLE_FL;
		(void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
	}
	close(fd);
}
