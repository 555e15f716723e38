/*
 * A process with shared memory of every kind, each filled with words of its own: `keeper NAME` maps the segment NAME,
 * which it creates, one that it unlinks, a memfd, shared anonymous memory, and keeps a memfd open without mapping it.
 * It says "ready", and dies of a null dereference at the end of standard input.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORDS (1 << 17) /* 1 MiB */

static int filled(int fd, unsigned long kind)
{
	unsigned long *words;
	if (fd >= 0 && ftruncate(fd, 8L * WORDS) < 0)
		return -1;
	words = mmap(0, 8L * WORDS, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	if (words == MAP_FAILED)
		return -1;
	for (unsigned long at = 0; at < WORDS; at++)
		words[at] = kind << 32 | at;
	return kind == 5 ? munmap(words, 8L * WORDS) : 0;
}

int main(int argc, char **argv)
{
	char gone[4096];
	int named, unlinked;
	if (argc != 2)
		return 64;
	named = open(argv[1], O_RDWR | O_CREAT, 0600);
	snprintf(gone, sizeof gone, "%s-gone", argv[1]);
	unlinked = open(gone, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (named < 0 || unlinked < 0 || unlink(gone) < 0)
		return 1;
	if (filled(named, 1) || filled(unlinked, 2) || filled(memfd_create("mapped", 0), 3) || filled(-1, 4) ||
	    filled(memfd_create("open", 0), 5))
		return 2;
	close(named), close(unlinked);
	puts("ready");
	fflush(stdout);
	getchar();
	*(volatile int *)0 = 0;
	return 0;
}
