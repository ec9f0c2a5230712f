/*
 * stats.h - counters of what the kernel asked for and what it cost, kept across a takeover.
 *
 * Owns     a small struct in the shared memory, all zero at first; nothing else.
 * Threads  any, without a lock. Before stats_start counting does nothing.
 */
#ifndef FS_STATS_H
#define FS_STATS_H

#include "meta/base/buf.h"

#include <stddef.h>
#include <stdint.h>

/* What is counted besides requests by kind: name in the metrics, help. */
#define STATS_TABLE(X) \
	X(STATS_READ_BYTES, "read_bytes", "bytes answered to READ requests") \
	X(STATS_WRITE_BYTES, "written_bytes", "bytes taken from WRITE requests") \
	X(STATS_PUT_OFF, "syncs_put_off", "syncs owed to a later round") \
	X(STATS_ROUNDS, "sync_rounds", "rounds of syncs shared by all who asked") \
	X(STATS_STARTS, "server_starts", "server processes started for this mount") \
	X(STATS_REDONE, "requests_redone", "requests carried out again after a death") \
	X(STATS_RESENT, "replies_resent", "saved replies sent again after a death") \
	X(STATS_VIRTUAL, "virtual_lookups", "lookups in the hidden folder .twinspool")

#define STATS_ENUM(id, name, help) id,
enum stats_id { STATS_TABLE(STATS_ENUM) STATS_IDS };
#undef STATS_ENUM

struct stats_shared;
size_t stats_shared_size(void);
/* Counts into sh from now on, what disk.h counts as well, continuing what is there. NULL: stop
 * counting. */
void stats_start(struct stats_shared *sh);

/* One request of this FUSE opcode was read from the device. */
void stats_request(uint32_t opcode);
/* Its answer was sent, that many microseconds after it was read. */
void stats_answer(uint32_t opcode, uint64_t us);
void stats_add(enum stats_id id, uint64_t n);

uint64_t stats_requests(uint32_t opcode);
uint64_t stats_get(enum stats_id id);

/* Answers by time: bucket b holds those of at most 2^b microseconds and more than half of that,
 * the last one all that took longer. */
#define STATS_BUCKETS 25
uint64_t stats_answers(uint32_t opcode, unsigned bucket);

/* Appends all of it as Prometheus text, and what this server has used of the machine. slot is the
 * slot's name, which needs no escapes. */
void stats_render(const char *slot, struct buf *out);

#endif
