/*
 * bare.h - the folder that a mount lies on.
 *
 * Threads: any.
 */
#ifndef FS_BARE_H
#define FS_BARE_H

/*
 * Makes the empty folder at path immutable, before the mount: nobody shall write into it while no
 * mount lies on it, such as a Cyrus that was started too early. What is there then would be lost to
 * sight later, and the next mount refused. It stays so after a clean stop. Where there is no such
 * flag, or it is not ours to set, the folder is left as it is.
 */
void bare_guard(const char *path);

#endif
