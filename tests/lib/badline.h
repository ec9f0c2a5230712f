/*
 * badline.h - a TCP line between two nodes that cuts, stalls and damages what it carries.
 *
 * Listens on a port of loopback and passes every connection on to another; what goes wrong is
 * drawn from seeded numbers for each piece of bytes. Runs on a loop: the caller's own, or one in
 * a thread of its own for nodes that have theirs.
 */
#ifndef TESTS_LIB_BADLINE_H
#define TESTS_LIB_BADLINE_H

#include <stdint.h>

struct badline;
struct loop;

/* One in so many pieces; 0: never. */
struct badline_faults {
	unsigned cut; /* both sides closed, what is under way is lost */
	unsigned flip; /* one bit is another */
	unsigned stall; /* this direction stops for up to stall_ms */
	unsigned stall_ms;
	unsigned piece; /* most bytes passed on at once; 0: 16 KiB */
};

int badline_open(
	struct loop *loop, unsigned target_port, uint64_t seed, struct badline **out);
void badline_close(struct badline *line);
unsigned badline_port(const struct badline *line);
/* From here on; a copy is made. */
void badline_set(struct badline *line, const struct badline_faults *faults);
/* Cuts every connection now. */
void badline_cut(struct badline *line);
/* How often what went wrong. */
unsigned badline_count(const struct badline *line);

#endif
