/*
 * pos.h - a position: which batch of whose journal (design 7). Plain values, any thread.
 *
 * Epochs count promotions; a run is one life of the writer's journal within an epoch; seq grows
 * from batch to batch and is never given out twice within (epoch, run). A new run, and a new
 * epoch, begin above every seq that this node has ever seen, so seq alone also grows along one
 * line, but not without gaps: never compute the next seq, take the one that comes.
 */
#ifndef SYNC_POS_H
#define SYNC_POS_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

struct pos {
	uint64_t epoch, run, seq;
};

/* Before the first batch of any journal. */
#define POS_NONE ((struct pos){ 0, 0, 0 })

/* For the log: log_info("at=" POS_FMT, POS_ARG(pos)); */
#define POS_FMT "%" PRIu64 "/%" PRIu64 "/%" PRIu64
#define POS_ARG(p) (p).epoch, (p).run, (p).seq

/* Less than, equal to or greater than 0, as a stands to b. */
static inline int
pos_cmp(struct pos a, struct pos b)
{
	if (a.epoch != b.epoch)
		return a.epoch < b.epoch ? -1 : 1;
	if (a.run != b.run)
		return a.run < b.run ? -1 : 1;
	return a.seq < b.seq ? -1 : a.seq > b.seq;
}

static inline bool
pos_is_none(struct pos p)
{
	return pos_cmp(p, POS_NONE) == 0;
}

#endif
