/*
 * tree.h - a folder of files for the tests of fsck: made from golden ones, changed by name, and what
 * was found in it.
 */
#ifndef TESTS_LIB_TREE_H
#define TESTS_LIB_TREE_H

#include "meta/base/buf.h"
#include "meta/fsck.h"

/* Empties that folder, or makes it: names are below it from now on. */
void tree_begin(const char *root);
/* Its path; good for three more calls. One that is absolute stays so, here and below. */
const char *tree_path(const char *name);
/* Writes a file, with the folders on the way to it; reads one. */
void tree_put(const char *name, const void *p, size_t n);
void tree_get(const char *name, struct buf *out);
/* Reads a golden file: "v17/3.". */
void tree_get_golden(const char *name, struct buf *out);
/* Copies a golden mailbox into a folder. */
void tree_put_golden(const char *golden, const char *folder);

/* Of the last run of fsck: the checks that failed, each once, in the order of appearance, as "a;b;"; and
 * all findings, a line each: mailbox, UID if there is one, check, class, text. tree_note is its callback. */
extern char tree_said[4096], tree_text[8192];
void tree_forget(void);
void tree_note(void *arg, const struct fsck_finding *f);

#endif
