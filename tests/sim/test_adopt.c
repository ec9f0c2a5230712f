/*
 * test_adopt.c - the first start on a spool that holds something, killed at its worst moments:
 * whoever starts next ends up with what a start in peace would have stored.
 *
 * The start that is to die is a fork of this program; the line of the log that names the moment
 * kills it.
 */
#include "meta/base/log.h"
#include "sync/inbox.h"
#include "sync/store.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { FILES = 9000 }; /* more than are stored at once */

static struct duo d;
static _Atomic int adoptions;

static void
on_log(enum log_level level, const char *line)
{
	duo_log(level, line);
	adoptions += strstr(line, "spool adopted") != NULL;
}

struct stored {
	uint64_t states, asides;
};

static struct stored
stored(void)
{
	struct stored out;
	struct store *s;
	struct inbox *in;

	if (store_open(d.state_a, &s) != 0 || inbox_open(s, &in) != 0)
		abort();
	out.states = store_mbox_count(s);
	out.asides = inbox_quarantine_count(in);
	inbox_close(in);
	store_close(s);
	return out;
}

static void
a_spool(void)
{
	static struct rig good;
	struct spool *sp;

	log_set_hook(on_log);
	duo_open(&d);
	if (spool_open(d.root_a, &sp) != 0)
		abort();
	rig_init(&good, sp, "box/good", "id-good", 17);
	rig_create(&good);
	rig_fini(&good);
	spool_close(sp);
	duo_sh("cd %s && cp -a box/good box/bad && echo what >box/bad/cyrus.index && "
	       "mkdir loose && cd loose && seq -f '%%05g' %d | xargs touch",
		d.root_a, FILES);
}

TEST(whoever_is_killed_while_adopting_has_an_heir)
{
	static const char *const lines[] = { "adopting the spool", "mailbox set aside",
		"spool adopted" };

	a_spool();
	duo_sh("cp -a %s %s.fresh", d.state_a, d.state_a);
	duo_start_a(&d);
	duo_stop_a(&d, true);
	struct stored whole = stored(), part;
	CHECK(whole.states > FILES);
	CHECK_EQ(whole.asides, 1);
	for (int i = 0; i < 3; i++) {
		duo_sh("rm -r %s && cp -a %s.fresh %s", d.state_a, d.state_a,
			d.state_a);
		duo_killed_at(&d, lines[i]);
		part = stored();
		CHECK(i == 2 ? part.states == whole.states
			     : part.states < whole.states);
		if (i == 0)
			CHECK(part.states > 0);
		duo_start_a(&d);
		duo_stop_a(&d, true);
		part = stored();
		CHECK_EQ(part.states, whole.states);
		CHECK_EQ(part.asides, whole.asides);
	}
	/* And that was the end of it. */
	adoptions = 0;
	duo_start_a(&d);
	duo_stop_a(&d, true);
	CHECK_EQ(adoptions, 0);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
