/*
 * clock.c - the kernel's clocks, or the one that a test has put in their place.
 */
#include "meta/base/clock.h"

#include <stddef.h>

static clock_source *fake;

void
clock_set_source(clock_source *source)
{
	fake = source;
}

static uint64_t
read_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t
clock_us(void)
{
	return fake != NULL ? fake() : read_ns(CLOCK_MONOTONIC) / 1000;
}

uint64_t
clock_ms(void)
{
	return clock_us() / 1000;
}

uint64_t
clock_wall_ns(void)
{
	return fake != NULL ? fake() * 1000 : read_ns(CLOCK_REALTIME);
}

struct timespec
clock_until(uint64_t ms)
{
	uint64_t ns = read_ns(CLOCK_MONOTONIC) + ms * 1000000u;

	return (struct timespec){ (time_t)(ns / 1000000000u),
		(long)(ns % 1000000000u) };
}

int
clock_wait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
	return pthread_cond_clockwait(c, m, CLOCK_MONOTONIC, until);
}
