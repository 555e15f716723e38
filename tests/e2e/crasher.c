/* Map the files named, touch the first byte of each, say "ready", and die of a null dereference
 * when a line or the end of standard input arrives. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	volatile char sum = 0;
	for (int i = 1; i < argc; i++) {
		struct stat st;
		int fd = open(argv[i], O_RDWR);
		if (fd < 0 || fstat(fd, &st) < 0)
			return 2;
		char *p = mmap(0, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			return 3;
		sum += p[0];
	}
	puts("ready");
	fflush(stdout);
	getchar();
	*(volatile int *)0 = sum;
	return 0;
}
