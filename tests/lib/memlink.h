/*
 * memlink.h - a link over a socket pair, without TLS, for tests; and a raw end to misbehave with.
 *
 * The fingerprint that the link reports as proven is whatever the test says. Faults: a link may
 * be cut (both sides see it lost) or stalled (nothing comes through until it goes on).
 */
#ifndef TESTS_LIB_MEMLINK_H
#define TESTS_LIB_MEMLINK_H

#include "sync/link.h"

/* One end over a non-blocking stream socket, which the link owns from here. NULL if no memory. */
struct link *memlink_over(int fd, const uint8_t print[LINK_PRINT_LEN]);

/* Two ends; the first sees print_b as its peer's fingerprint, the second print_a. 0 or ERR_*. */
int memlink_pair(const uint8_t print_a[LINK_PRINT_LEN],
	const uint8_t print_b[LINK_PRINT_LEN], struct link **a_out,
	struct link **b_out);

void memlink_cut(struct link *l);
void memlink_stall(struct link *l, bool on);

#endif
