/*
 * clock.h - time, replaceable by tests. Threads: any.
 */
#ifndef META_BASE_CLOCK_H
#define META_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds that never go backwards. */
uint64_t clock_ms(void);
/* Microseconds that never go backwards. */
uint64_t clock_us(void);
/* Nanoseconds since the epoch. */
uint64_t clock_wall_ns(void);

/* A test's clock: returns microseconds, used for all three. NULL gives the real one back. */
typedef uint64_t clock_source(void);
void clock_set_source(clock_source *source);

#endif
