/*
 * t.h - the harness of the unit tests: TEST, CHECK, TAP on standard output.
 *
 *   TEST(name) { CHECK_EQ(1 + 1, 2); }
 *   T_MAIN
 *
 * An error or warning in the log that the test did not announce with t_expect_log fails it.
 */
#ifndef TESTS_LIB_T_H
#define TESTS_LIB_T_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef void t_fn(void);
void t_register(const char *name, t_fn *fn);
int t_main(int argc, char **argv);
void t_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The next error or warning line that contains text is expected; each must come. */
void t_expect_log(const char *text);
/* A private folder for this test, removed after it. */
const char *t_tmpdir(void);
/* A port of this machine that nobody listens on; below those that the kernel gives to outgoing
 * connections, one of which might have it when a listener comes back. */
unsigned t_free_port(void);
/* How long to wait at most for what takes less than ms: longer where TWINSPOOL_SLOW says so (a
 * sanitizer, valgrind). */
uint64_t t_limit(uint64_t ms);
/* Seeded numbers; the seed is printed when the test fails and taken from T_SEED. */
uint64_t t_rand(void);
/* From here on the numbers of that point, which follow from it and the seed alone. */
void t_rand_from(uint64_t point);
/* Has anything failed in this test so far? */
bool t_failed(void);
/* The folder tests/golden. */
const char *t_golden(void);

#define TEST(name) \
	static void test_##name(void); \
	static void __attribute__((constructor)) t_reg_##name(void) \
	{ \
		t_register(#name, test_##name); \
	} \
	static void test_##name(void)

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			t_fail(__FILE__, __LINE__, "%s", #cond); \
			return; \
		} \
	} while (0)

#define CHECK_EQ(a, b) \
	do { \
		long long t_a = (long long)(a), t_b = (long long)(b); \
		if (t_a != t_b) { \
			t_fail(__FILE__, __LINE__, "%s is %lld, %s is %lld", #a, t_a, \
				#b, t_b); \
			return; \
		} \
	} while (0)

#define CHECK_STR(a, b) \
	do { \
		const char *t_a = (a), *t_b = (b); \
		if (strcmp(t_a, t_b) != 0) { \
			t_fail(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #a, \
				t_a, t_b); \
			return; \
		} \
	} while (0)

#define CHECK_MEM(a, b, n) \
	do { \
		if (memcmp((a), (b), (n)) != 0) { \
			t_fail(__FILE__, __LINE__, "%s differs from %s", #a, #b); \
			return; \
		} \
	} while (0)

#define T_MAIN \
	int main(int argc, char **argv) \
	{ \
		return t_main(argc, argv); \
	}

#endif
