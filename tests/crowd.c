/* crowd N: fork N processes that pause, say "ok", and end them when standard input ends. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char end;
    pid_t parent = getpid();
    setpgid(0, 0);
    for (int i = atoi(argv[1]); i; i--) {
        pid_t pid = fork();
        if (pid < 0) return 1;
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() == parent) pause();
            _exit(0);
        }
    }
    write(1, "ok\n", 3);
    read(0, &end, 1);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(0) > 0);
    return 0;
}
