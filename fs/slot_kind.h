/*
 * slot_kind.h - what the loop must know of a kind of request (FUSE_* of linux/fuse.h).
 *
 * Threads  any.
 */
#ifndef FS_SLOT_KIND_H
#define FS_SLOT_KIND_H

#include <stdbool.h>
#include <stdint.h>

/* Its answer is made again rather than saved. */
bool slot_kind_repeatable(uint32_t opcode);
/* The kernel wants no answer. */
bool slot_kind_unanswered(uint32_t opcode);
/* Its answer carries attributes; none of these waits long. */
bool slot_kind_shows_attributes(uint32_t opcode);

#endif
