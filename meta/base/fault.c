/*
 * fault.c - TWINSPOOL_FAULT=name:N dies at the Nth passing of a point, name~MS waits there. Without
 * TWINSPOOL_FAULTS at compile time none of this exists.
 */
#include "meta/base/fault.h"

#ifdef TWINSPOOL_FAULTS
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
fault_point(const char *name)
{
	static _Atomic int seen;
	const char *want = getenv("TWINSPOOL_FAULT");
	size_t len = strlen(name);

	if (want == NULL || strncmp(want, name, len) != 0)
		return;
	if (want[len] == '~')
		usleep((useconds_t)atoi(want + len + 1) * 1000);
	if (want[len] != '\0' && want[len] != ':')
		return;
	int nth = want[len] == ':' ? atoi(want + len + 1) : 1;
	if (atomic_fetch_add(&seen, 1) + 1 == nth)
		raise(SIGKILL);
}
#else
/* A translation unit needs a declaration. */
extern int fault_unused;
#endif
