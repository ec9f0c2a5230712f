/*
 * inval.c - notifications through the session of the running server.
 */
#include "fs/inval.h"

#include <fuse_lowlevel.h>
#include <string.h>

static struct fuse_session *session;

void
inval_start(struct fuse_session *se)
{
	session = se;
}

void
inval_inode(uint64_t nodeid)
{
	(void)fuse_lowlevel_notify_inval_inode(session, nodeid, 0, 0);
}

void
inval_attr(uint64_t nodeid)
{
	(void)fuse_lowlevel_notify_inval_inode(session, nodeid, -1, 0);
}

void
inval_entry(uint64_t parent, const char *name)
{
	(void)fuse_lowlevel_notify_inval_entry(session, parent, name, strlen(name));
}
