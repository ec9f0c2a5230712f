/*
 * slot_own.h - what slot.c and ring.c share: the slots that rings feed.
 *
 * They follow those that are fed from the device, under the numbers from slot_first_ring() on, one
 * for each ring entry and always its own.
 */
#ifndef FS_SLOT_OWN_H
#define FS_SLOT_OWN_H

#include "fs/slot.h"

#include <stddef.h>
#include <stdint.h>

int slot_first_ring(void);
struct slot *slot_at(int i);
/* A slot's memory: SLOT_HEAD bytes for a short request, then slot_payload_size() for what is large
 * in a request or an answer. */
uint8_t *slot_bytes(int i);
size_t slot_payload_size(void);

/* Carries out the request whose header lies at bytes + head; its answer goes to ring_answer, perhaps
 * later and from another thread. */
void slot_serve(int i, size_t head);
/* It is being answered: no other answer is taken for it. */
void slot_served(int i);

#endif
