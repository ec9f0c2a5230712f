#include "sync/refs.h"
#include "tests/lib/t.h"

#include <stdio.h>

TEST(the_latest_place_of_a_body_is_named)
{
	struct refs *r;
	char dir[64];
	uint32_t uid = 0;

	CHECK_EQ(refs_open(&r), 0);
	CHECK(!refs_get(r, 7, dir, sizeof(dir), &uid));
	refs_put(r, 7, "user/a", 1);
	refs_put(r, 7, "user/b", 2);
	CHECK(refs_get(r, 7, dir, sizeof(dir), &uid));
	CHECK_STR(dir, "user/b");
	CHECK_EQ(uid, 2);
	char small[4];
	CHECK(!refs_get(r, 7, small, sizeof(small), &uid));
	refs_close(r);
}

TEST(many_bodies_push_out_the_oldest_and_never_lie)
{
	struct refs *r;
	char dir[64], want[64];
	uint32_t uid, found = 0;

	CHECK_EQ(refs_open(&r), 0);
	for (uint64_t i = 1; i <= 200000; i++) {
		snprintf(dir, sizeof(dir), "d%llu", (unsigned long long)i);
		refs_put(r, i, dir, (uint32_t)i);
	}
	for (uint64_t i = 1; i <= 200000; i++) {
		if (!refs_get(r, i, dir, sizeof(dir), &uid))
			continue;
		snprintf(want, sizeof(want), "d%llu", (unsigned long long)i);
		CHECK_STR(dir, want);
		CHECK_EQ(uid, i);
		found++;
	}
	CHECK(found > 10000 && found <= 32768);
	CHECK(refs_get(r, 200000, dir, sizeof(dir), &uid));
	refs_close(r);
}

T_MAIN
