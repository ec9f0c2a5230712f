/*
 * slot_kind.c - lists of kinds.
 */
#include "fs/slot_kind.h"

#include <linux/fuse.h>

bool
slot_kind_repeatable(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_GETATTR:
	case FUSE_READ:
	case FUSE_READDIR:
	case FUSE_READLINK:
	case FUSE_STATFS:
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_ACCESS:
	case FUSE_LSEEK:
	case FUSE_OPEN:
	case FUSE_OPENDIR:
	case FUSE_FLUSH:
		return true;
	default:
		return false;
	}
}

bool
slot_kind_unanswered(uint32_t opcode)
{
	return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET;
}

bool
slot_kind_shows_attributes(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_SETATTR:
	case FUSE_LINK:
	case FUSE_CREATE:
	case FUSE_READDIRPLUS:
		return true;
	default:
		return false;
	}
}
