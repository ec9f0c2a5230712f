#include <stdio.h>

int
main(void)
{
	fputs("twinspool: no command yet\n", stderr);
	return 2;
}
