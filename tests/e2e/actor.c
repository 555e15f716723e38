/* A process under any name, with any arguments: `actor COMM [ARGUMENT...]`. It says "ready", and dies of a
 * null dereference when a line or the end of standard input arrives. */
#include <stdio.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	if (argc > 1)
		prctl(PR_SET_NAME, argv[1], 0, 0, 0);
	puts("ready");
	fflush(stdout);
	getchar();
	*(volatile int *)0 = 0;
	return 0;
}
