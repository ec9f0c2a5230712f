/*
 * inval.c - notifications through the session of the running server.
 */
#include "fs/inval.h"

#include <fuse_lowlevel.h>

static struct fuse_session *session;

void
inval_start(struct fuse_session *se)
{
	session = se;
}

void
inval_attr(uint64_t nodeid)
{
	(void)fuse_lowlevel_notify_inval_inode(session, nodeid, -1, 0);
}
