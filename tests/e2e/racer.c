/* Exchanges two names as fast as it can until it is killed: racer NAME OTHER [write]. Whatever is under NAME gets new times
   now and then, or new content, so that it counts as another file each time it is looked at. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void change(const char *name, unsigned long round, int write) {
    if (!write) {
        utimensat(AT_FDCWD, name, NULL, AT_SYMLINK_NOFOLLOW);
        return;
    }
    int fd = open(name, O_WRONLY | O_NOFOLLOW);
    if (fd >= 0) {
        pwrite(fd, &round, sizeof round, 0);
        close(fd);
    }
}

int main(int count, char **names) {
    if (count < 3) return 2;
    for (unsigned long round = 0;; round++) {
        if (syscall(SYS_renameat2, AT_FDCWD, names[1], AT_FDCWD, names[2], 2 /* RENAME_EXCHANGE */)) {
            perror("renameat2");
            return 1;
        }
        if (round % 15 == 0) change(names[1], round, count > 3); /* odd: both files have their turn */
    }
}
