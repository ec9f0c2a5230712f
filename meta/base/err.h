/*
 * err.h - the error table: code, text, errno for the kernel, consequence for replication.
 *
 * A function that can fail returns int: 0, or one of these negative codes. Logged once, where
 * it is noticed and the context is known; callers pass the code up.
 */
#ifndef META_BASE_ERR_H
#define META_BASE_ERR_H

#include <errno.h>

/* What replication does about an error that reaches it. */
enum err_consequence {
	ERR_DO_FAIL, /* only the one call fails */
	ERR_DO_RETRY, /* nothing is wrong with the data; try again later */
	ERR_DO_QUARANTINE, /* set that mailbox aside, let the rest flow */
	ERR_DO_REPAIR, /* compare that mailbox with the peer's */
	ERR_DO_DROP_LINK, /* the peer or the line is bad: close, say why, reconnect */
	ERR_DO_STOP /* nothing more may be applied until an administrator acts */
};

#define ERR_TABLE(X) \
	X(ERR_IO, -1, "input or output failed", EIO, ERR_DO_RETRY) \
	X(ERR_NOMEM, -2, "out of memory", ENOMEM, ERR_DO_RETRY) \
	X(ERR_FULL, -3, "no space left", ENOSPC, ERR_DO_RETRY) \
	X(ERR_NOTFOUND, -4, "not found", ENOENT, ERR_DO_FAIL) \
	X(ERR_EXISTS, -5, "exists already", EEXIST, ERR_DO_FAIL) \
	X(ERR_ACCESS, -6, "permission denied", EACCES, ERR_DO_RETRY) \
	X(ERR_MANGLED, -7, "bytes do not parse", EIO, ERR_DO_QUARANTINE) \
	X(ERR_CHECKSUM, -8, "checksum does not match", EIO, ERR_DO_QUARANTINE) \
	X(ERR_VERSION, -9, "unknown format version", EIO, ERR_DO_QUARANTINE) \
	X(ERR_BODY, -10, "message missing, empty or not what its record says", EIO, \
		ERR_DO_QUARANTINE) \
	X(ERR_DIVERGED, -11, "sum before does not match", EIO, ERR_DO_REPAIR) \
	X(ERR_SUM, -12, "sum after does not match", EIO, ERR_DO_REPAIR) \
	X(ERR_NEED, -13, "a body must be fetched from the peer first", EAGAIN, \
		ERR_DO_RETRY) \
	X(ERR_GONE, -14, "no longer in the journal", ENODATA, ERR_DO_REPAIR) \
	X(ERR_PROTO, -15, "peer broke the protocol", EPROTO, ERR_DO_DROP_LINK) \
	X(ERR_PEER, -16, "peer refused", ECONNREFUSED, ERR_DO_DROP_LINK) \
	X(ERR_LINK, -17, "connection lost", ENOTCONN, ERR_DO_DROP_LINK) \
	X(ERR_CERT, -18, "certificate is not the pinned one", EACCES, \
		ERR_DO_DROP_LINK) \
	X(ERR_LIMIT, -19, "over the limit", EMSGSIZE, ERR_DO_FAIL) \
	X(ERR_TIMEOUT, -20, "took too long", ETIMEDOUT, ERR_DO_RETRY) \
	X(ERR_BUSY, -21, "busy", EBUSY, ERR_DO_RETRY) \
	X(ERR_CLOSED, -22, "closed", ESHUTDOWN, ERR_DO_FAIL) \
	X(ERR_CONF, -23, "wrong configuration", EINVAL, ERR_DO_FAIL) \
	X(ERR_FOREIGN, -24, "not the tree that belongs to this slot", EXDEV, \
		ERR_DO_STOP) \
	X(ERR_STORE, -25, "the state database failed", EIO, ERR_DO_STOP) \
	X(ERR_ROLE, -26, "not allowed in this role", EROFS, ERR_DO_FAIL) \
	X(ERR_USAGE, -27, "wrong use", EINVAL, ERR_DO_FAIL) \
	X(ERR_MORE, -28, "it holds what the other side lacks", EIO, ERR_DO_QUARANTINE)

#define ERR_ENUM(name, code, text, sys, consequence) name = (code),
enum err { ERR_TABLE(ERR_ENUM) };
#undef ERR_ENUM

/* The text of a code; "unknown error" for one that is not in the table. Static storage. */
const char *err_text(int code);

/* The positive errno that the kernel gets for a code. */
int err_errno(int code);

/* What replication does about it. */
enum err_consequence err_consequence(int code);

/* The code for a positive errno of a system call. */
int err_from_errno(int sys);

#endif
