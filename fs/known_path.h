/*
 * known_path.h - where folders lay when they were last looked for.
 *
 * To ask the kernel for a path means two links of /proc to be followed and read, at each commit. One that
 * was found before is believed while no folder was moved through the mount, and only if it still
 * leads to that very folder, whoever may have been at the spool behind our back.
 *
 * Owns     the paths of some hundred folders.
 * Threads  any.
 */
#ifndef FS_KNOWN_PATH_H
#define FS_KNOWN_PATH_H

#include "fs/inode.h"

/* As inode_path. names: a number that no longer is what it was once a folder was moved (the ticket
 * of sync_names). */
int known_path(struct inode *dir, uint64_t names, char *buf, size_t size);

#endif
