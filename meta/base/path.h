/*
 * path.h - names with slashes, as text. Nothing is looked at on disk.
 *
 * Threads  any.
 */
#ifndef META_BASE_PATH_H
#define META_BASE_PATH_H

#include <stddef.h>
#include <string.h>

/* What follows folder in path: "" if they are the same, else from the slash on; NULL if path is
 * neither folder nor below it. folder has no slash at its end. */
static inline const char *
path_rest(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	return strncmp(path, folder, n) == 0 && (path[n] == '\0' || path[n] == '/')
		       ? path + n
		       : NULL;
}

#endif
