#include "meta/place.h"
#include "tests/lib/t.h"

#include <sys/stat.h>

static const struct place dir = { PLACE_DIR, 0, 0 };

struct row {
	struct place parent;
	const char *name;
	mode_t mode;
	enum place_kind kind, which;
	uint32_t uid;
};

TEST(steps)
{
	const struct place stage = { PLACE_STAGE, 0, 0 }, own = { PLACE_OWN, 0, 0 },
			   fresh = { PLACE_NEW, 0, 0 };
	const struct row rows[] = {
		{ PLACE_AT_ROOT, "stage.", S_IFDIR, PLACE_STAGE, 0, 0 },
		{ PLACE_AT_ROOT, "sync.", S_IFDIR, PLACE_SYNC, 0, 0 },
		{ PLACE_AT_ROOT, ".twinspool", S_IFDIR, PLACE_OWN, 0, 0 },
		{ PLACE_AT_ROOT, "uuid", S_IFDIR, PLACE_DIR, 0, 0 },
		{ PLACE_AT_ROOT, "stage.", S_IFREG, PLACE_FILE, 0, 0 },
		{ PLACE_AT_ROOT, "cyrus.index", S_IFREG, PLACE_FILE, 0, 0 },
		{ PLACE_AT_ROOT, "7.", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "stage.", S_IFDIR, PLACE_DIR, 0, 0 },
		{ dir, ".twinspool", S_IFDIR, PLACE_DIR, 0, 0 },
		{ dir, "7.", S_IFDIR, PLACE_DIR, 0, 0 },
		{ dir, "7.", S_IFREG, PLACE_MESSAGE, 0, 7 },
		{ dir, "7.", S_IFLNK, PLACE_FILE, 0, 0 },
		{ dir, "4294967295.", S_IFREG, PLACE_MESSAGE, 0, 4294967295U },
		{ dir, "4294967296.", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "0.", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "07.", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "7", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "7.NEW", S_IFREG, PLACE_NEW, 0, 0 },
		{ dir, "cyrus.squat.NEW", S_IFREG, PLACE_NEW, 0, 0 },
		{ dir, "x.NEW", S_IFDIR, PLACE_NEW, 0, 0 },
		{ fresh, "7.", S_IFREG, PLACE_NEW, 0, 0 },
		{ PLACE_AT_ROOT, "x.NEW", S_IFLNK, PLACE_NEW, 0, 0 },
		{ dir, "NEW", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, ".", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "cyrus.index", S_IFREG, PLACE_INDEX, 0, 0 },
		{ dir, "cyrus.header", S_IFREG, PLACE_HEADER, 0, 0 },
		{ dir, "cyrus.cache", S_IFREG, PLACE_CACHE, 0, 0 },
		{ dir, "cyrus.annotations", S_IFREG, PLACE_ANNOT, 0, 0 },
		{ dir, "cyrus.index.NEW", S_IFREG, PLACE_NEW, PLACE_INDEX, 0 },
		{ dir, "cyrus.annotations.NEW", S_IFREG, PLACE_NEW, PLACE_ANNOT, 0 },
		{ dir, "cyrus.index.NEWER", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "cyrus.indexes", S_IFREG, PLACE_FILE, 0, 0 },
		{ dir, "cyrus.squat", S_IFREG, PLACE_FILE, 0, 0 },
		{ stage, "12-34-0", S_IFREG, PLACE_STAGE, 0, 0 },
		{ stage, "cyrus.index", S_IFREG, PLACE_STAGE, 0, 0 },
		{ own, "kept", S_IFDIR, PLACE_OWN, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct place p = place_step(rows[i].parent, rows[i].name, rows[i].mode);

		if (p.kind != rows[i].kind || p.which != rows[i].which ||
			p.uid != rows[i].uid)
			t_fail(__FILE__, __LINE__, "row %zu \"%s\" is %u/%u uid %u", i,
				rows[i].name, p.kind, p.which, p.uid);
	}
}

T_MAIN
