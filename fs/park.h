/*
 * park.h - requests that wait for somebody else (a peer), kept out of the slots.
 *
 * A slot has room for the largest request, and there are a few dozen. A sync that waits for a peer
 * needs sixty bytes and may wait for minutes, so it is moved here, and its slot takes the next
 * request: reads go on however many writers wait.
 *
 * Owns     a table in the memory shared with the supervisor, which slot.c locks. All zero at first.
 * Threads  any, without a lock.
 * Death    what is parked is carried out again by the next server; it was not the poison, for its
 *          handler had returned.
 */
#ifndef FS_PARK_H
#define FS_PARK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { PARK_MAX = 1024, PARK_REQUEST = 96, PARK_REPLY = 16 };

struct park_one {
	_Atomic uint32_t state;
	uint32_t len;
	_Atomic uint64_t unique;
	uint8_t request[PARK_REQUEST];
	uint8_t reply[PARK_REPLY];
};

struct park {
	struct park_one one[PARK_MAX];
};

/* Keeps a copy. False: too long, or no room. */
bool park_put(struct park *p, uint64_t unique, const void *request, size_t len);
/* The place of a parked request, or -1. */
int park_find(struct park *p, uint64_t unique);
/* The answer, copied to where it is sent from; it must be at most PARK_REPLY bytes. */
struct iovec park_answer(struct park *p, int i, const struct iovec *iov, int count);
void park_free(struct park *p, int i);

/* In a new server: the next parked one at or after i, or -1. What was only half put away is
 * dropped: its slot still has it. */
int park_next(struct park *p, int i);
size_t park_get(const struct park *p, int i, void *request, size_t size);

#endif
