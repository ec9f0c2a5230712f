/*
 * shown.c - one row for each file: its name and the function of status.c that renders it.
 */
#include "fs/shown.h"

#include "fs/service.h"
#include "fs/status.h"
#include "fs/vdir.h"
#include "meta/base/err.h"

#include <errno.h>
#include <stdlib.h>

static struct {
	void (*fn)(void *arg, struct buf *out);
	void *arg;
} more;

static void
metrics(const struct status_facts *f, struct buf *out)
{
	status_metrics(f, out);
	if (more.fn != NULL)
		more.fn(more.arg, out);
}

struct shown {
	const char *name;
	void (*render)(const struct status_facts *f, struct buf *out);
};

static const struct shown files[] = {
	{ "status", status_text },
	{ "peers", status_peers },
	{ "metrics", metrics },
	{ "quarantine", status_quarantine },
};

static int
fill(void *arg, const char *mailbox, struct buf *out)
{
	const struct shown *file = arg;
	struct sync_facts *room = calloc(1, sizeof(*room));
	struct status_facts facts;

	(void)mailbox;
	if (room == NULL)
		return ENOMEM;
	service_facts(&facts, room);
	file->render(&facts, out);
	free(room);
	return 0;
}

int
shown_start(void (*fn)(void *arg, struct buf *out), void *arg)
{
	more.fn = fn;
	more.arg = arg;
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		if (vdir_add(files[i].name, fill, (void *)&files[i]) != 0)
			return ERR_LIMIT;
	return 0;
}
