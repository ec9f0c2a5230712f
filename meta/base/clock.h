/*
 * clock.h - time, replaceable by tests. Threads: any.
 */
#ifndef META_BASE_CLOCK_H
#define META_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* Milliseconds that never go backwards. */
uint64_t clock_ms(void);
/* Microseconds that never go backwards. */
uint64_t clock_us(void);
/* Nanoseconds since the epoch. */
uint64_t clock_wall_ns(void);

/* When ms from now are over, for clock_wait: by the clock that never goes backwards, test's clock or
 * not. One that is set back must not make a wait longer. */
struct timespec clock_until(uint64_t ms);
/* As pthread_cond_timedwait. 0 or ETIMEDOUT. */
int clock_wait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);

/* A test's clock: returns microseconds, used for all three. NULL gives the real one back. */
typedef uint64_t clock_source(void);
void clock_set_source(clock_source *source);

#endif
