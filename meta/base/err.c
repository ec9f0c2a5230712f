/*
 * err.c - the table of err.h, looked up by code.
 */
#include "meta/base/err.h"

#include <stddef.h>

struct err_row {
	int code;
	const char *text;
	int sys;
	enum err_consequence consequence;
};

#define ERR_ROW(name, code, text, sys, consequence) { code, text, sys, consequence },
static const struct err_row rows[] = { ERR_TABLE(ERR_ROW) };
#undef ERR_ROW

static const struct err_row *
row_of(int code)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].code == code)
			return &rows[i];
	return NULL;
}

const char *
err_text(int code)
{
	const struct err_row *row = row_of(code);

	return row ? row->text : code == 0 ? "success" : "unknown error";
}

int
err_errno(int code)
{
	const struct err_row *row = row_of(code);

	return row ? row->sys : EIO;
}

enum err_consequence
err_consequence(int code)
{
	const struct err_row *row = row_of(code);

	return row ? row->consequence : ERR_DO_STOP;
}

int
err_from_errno(int sys)
{
	switch (sys) {
	case ENOMEM:
		return ERR_NOMEM;
	case ENOSPC:
	case EDQUOT:
		return ERR_FULL;
	case ENOENT:
	case ENOTDIR:
		return ERR_NOTFOUND;
	case EEXIST:
	case ENOTEMPTY:
		return ERR_EXISTS;
	case EACCES:
	case EPERM:
	case EROFS:
		return ERR_ACCESS;
	case EBUSY:
		return ERR_BUSY;
	default:
		return ERR_IO;
	}
}
