/* Dies in the way that its first argument names; the second is a file, where the way needs one. */
#define _GNU_SOURCE
#include <assert.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct engine {
    char name[24];
    int state;
};

static volatile long sink;
static const char read_only[] = "constant";
static volatile int zero;

static char *pages(size_t size, int protection)
{
    return mmap(0, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

__attribute__((noinline)) static long endless(long n)
{
    volatile char room[512];
    room[n & 511] = 1;
    return endless(n + 1) + room[n & 511];
}

/* One frame that is larger than the stack and its guard. */
__attribute__((noinline)) static long large_frame(size_t size)
{
    volatile char *room = __builtin_alloca(size);
    room[0] = 1;
    return room[0];
}

static void *overflow(void *unused)
{
    sink = endless(0);
    return unused;
}

static void on_thread(void *(*work)(void *))
{
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    pthread_join(thread, 0);
}

static void handled(int number, int flags, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, 0);
}

static void overflow_in_handler(int number) { sink = endless(number); }

static void null_in_handler(int number)
{
    (void)number;
    sink = *(volatile int *)0x18;
}

static void nothing(int number) { (void)number; }

static void raise_again(int number)
{
    signal(number, SIG_DFL);
    raise(number);
}

static void abort_within(int number)
{
    (void)number;
    abort();
}

static sigjmp_buf before;

static void recover(int number) { siglongjmp(before, number); }

__attribute__((noinline)) static void recovered(void)
{
    if (!sigsetjmp(before, 1))
        sink = *(volatile int *)0x18;
}

__attribute__((noinline)) static void raise_deeper(void)
{
    volatile char room[40000];
    __asm__ volatile("" ::"r"(room) : "memory");
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    sink = room[0];
}

static void alternate_stack(void)
{
    char *room = pages(3 << 16, PROT_READ | PROT_WRITE);
    mprotect(room, 1 << 16, PROT_NONE);
    mprotect(room + (2 << 16), 1 << 16, PROT_NONE);
    stack_t stack = {.ss_sp = room + (1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, 0);
}

static char *mapped(const char *path, size_t size)
{
    return mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, open(path, O_RDWR | O_CREAT, 0600), 0);
}

static void forbid(int number)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, rules};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void wait_for_another(int number)
{
    signal(number, SIG_DFL);
    if (fork() == 0) {
        kill(getppid(), number);
        _exit(0);
    }
    for (;;)
        pause();
}

static void sent_by_child(int number)
{
    if (fork() == 0) {
        kill(getppid(), number);
        _exit(0);
    }
    for (;;)
        pause();
}

static void memory(const char *way)
{
    struct engine *volatile none = 0;
    volatile char *volatile freed = (char *)0x5a5a5a5a5a5a5a5a;
    char here;
    if (!strcmp(way, "null-read"))
        sink = *(volatile int *)none;
    else if (!strcmp(way, "null-write"))
        *(volatile int *)none = 1;
    else if (!strcmp(way, "null-member"))
        sink = none->state;
    else if (!strcmp(way, "null-call"))
        ((void (*)(void))none)();
    else if (!strcmp(way, "null-in-thread"))
        on_thread((void *(*)(void *))(void *)null_in_handler);
    else if (!strcmp(way, "map-failed"))
        sink = *(volatile char *)MAP_FAILED;
    else if (!strcmp(way, "before-null"))
        sink = *(volatile char *)-8L;
    else if (!strcmp(way, "kernel"))
        sink = *(volatile char *)0xffffffff81000000;
    else if (!strcmp(way, "unmapped"))
        sink = *(volatile char *)0x123456789000;
    else if (!strcmp(way, "low-mapping")) {
        mmap((void *)0x1000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        sink = *(volatile int *)0x18;
    } else if (!strcmp(way, "past-mapping")) {
        char *room = pages(3 * 4096, PROT_READ | PROT_WRITE);
        munmap(room + 8192, 4096);
        memset(room, 1, 12288);
    } else if (!strcmp(way, "constant"))
        *(volatile char *)read_only = 1;
    else if (!strcmp(way, "code-write"))
        *(volatile char *)&memory = 1;
    else if (!strcmp(way, "protected"))
        sink = *(volatile char *)pages(4096, PROT_NONE);
    else if (!strcmp(way, "heap-guard")) {
        char *room = pages(1 << 20, PROT_READ | PROT_WRITE);
        mprotect(room, 4096, PROT_NONE);
        room[4000] = 1;
    } else if (!strcmp(way, "below-stack"))
        *(volatile char *)(&here - (64L << 20)) = 1;
    else if (!strcmp(way, "jump-data"))
        ((void (*)(void))pages(4096, PROT_READ | PROT_WRITE))();
    else if (!strcmp(way, "jump-stack"))
        ((void (*)(void))&here)();
    else if (!strcmp(way, "jump-nowhere"))
        ((void (*)(void))0x123456789000)();
    else if (!strcmp(way, "non-canonical"))
        sink = *freed;
    else if (!strcmp(way, "misaligned-vector"))
        __asm__ volatile("mov %%rsp, %%rax; or $1, %%rax; movaps (%%rax), %%xmm0" ::: "rax");
    else if (!strcmp(way, "privileged"))
        __asm__ volatile("hlt");
    else if (!strcmp(way, "bad-stack-pointer"))
        __asm__ volatile("mov $0x123456789000, %rsp; push %rax");
}

static void stacks(const char *way)
{
    if (!strcmp(way, "overflow"))
        sink = endless(0);
    else if (!strcmp(way, "overflow-in-thread"))
        on_thread(overflow);
    else if (!strcmp(way, "overflow-large-frame"))
        sink = large_frame(64 << 20);
    else if (!strcmp(way, "overflow-with-handler")) { /* that has no stack of its own */
        handled(SIGSEGV, 0, nothing);
        sink = endless(0);
    } else if (!strcmp(way, "overflow-in-handler")) {
        alternate_stack();
        handled(SIGUSR1, SA_ONSTACK, overflow_in_handler);
        raise(SIGUSR1);
    } else if (!strcmp(way, "null-in-handler")) {
        alternate_stack();
        handled(SIGUSR1, SA_ONSTACK, null_in_handler);
        raise(SIGUSR1);
    } else if (!strcmp(way, "overflow-raised-again")) {
        alternate_stack();
        handled(SIGSEGV, SA_ONSTACK | SA_NODEFER | SA_SIGINFO, raise_again);
        sink = endless(0);
    } else if (!strcmp(way, "general-protection-raised-again")) {
        handled(SIGSEGV, SA_SIGINFO, raise_again);
        __asm__ volatile("mov $0x5a5a5a5a5a5a5a5a, %%rax; mov (%%rax), %%rax" ::: "rax");
    } else if (!strcmp(way, "recovered-and-raised")) {
        handled(SIGSEGV, SA_NODEFER | SA_SIGINFO, recover);
        if (!sigsetjmp(before, 1))
            sink = *(volatile int *)0x18;
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    } else if (!strcmp(way, "recovered-and-raised-deeper")) { /* the frame of the first lies in a later one's room */
        handled(SIGSEGV, SA_SIGINFO, recover);
        recovered();
        raise_deeper();
    } else if (!strcmp(way, "sent-within")) {
        handled(SIGSEGV, SA_NODEFER | SA_SIGINFO, wait_for_another);
        *(volatile int *)0x18 = 1;
    } else if (!strcmp(way, "raised-within")) {
        handled(SIGSEGV, SA_NODEFER | SA_SIGINFO, raise_again);
        *(volatile int *)0x18 = 1;
    } else if (!strcmp(way, "aborted-within")) {
        handled(SIGSEGV, SA_SIGINFO, abort_within);
        *(volatile int *)0x18 = 1;
    } else if (!strncmp(way, "raised-again", 12)) {
        handled(SIGSEGV, strstr(way, "plain") ? 0 : SA_SIGINFO, raise_again);
        sink = *(volatile int *)0x18;
    }
}

static void files(const char *way, const char *path)
{
    char *room = mapped(path, 8 << 20);
    if (!strcmp(way, "truncated")) {
        truncate(path, 4096);
        room[5000] = 1;
    } else if (!strcmp(way, "full")) { /* the file is as long as its mapping, and more than there is room for */
        truncate(path, 8 << 20);
        usleep(50000);
        memset(room, 1, 8 << 20);
    } else if (!strcmp(way, "deleted")) {
        truncate(path, 4096);
        unlink(path);
        room[5000] = 1;
    } else if (!strcmp(way, "full-truncated")) { /* both: its length is what counts */
        truncate(path, 4096);
        room[8191] = 1;
    } else if (!strcmp(way, "fault-in-file")) { /* not about the file */
        truncate(path, 4096);
        sink = room[0] + *(volatile int *)0x18;
    } else if (!strcmp(way, "full-of-huge-pages")) {
        room = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, open(path, O_RDWR | O_CREAT, 0600), 0);
        truncate(path, 8 << 20);
        usleep(50000);
        room[0] = 1;
    } else if (!strcmp(way, "huge")) {
        room = mmap(0, 8 << 20, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
        room[0] = 1;
    }
}

static void signals(const char *way, const char *path)
{
    struct rlimit limit = {1, 9};
    char *twice;
    if (!strcmp(way, "divide"))
        sink = 42 / zero;
    else if (!strcmp(way, "trap"))
        __builtin_trap();
    else if (!strcmp(way, "breakpoint"))
        __asm__ volatile("int3");
    else if (!strcmp(way, "misaligned"))
        __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; lea 1(%%rsp), %%rax; mov (%%rax), %%rcx" ::: "rax", "rcx");
    else if (!strcmp(way, "seccomp")) {
        forbid(SYS_getppid);
        getppid();
    } else if (!strcmp(way, "assert"))
        assert(zero == 42);
    else if (!strcmp(way, "double-free")) {
        twice = malloc(100 << 10);
        free(twice);
        free((char *)twice + 16);
    } else if (!strcmp(way, "abort"))
        abort();
    else if (!strcmp(way, "smashed")) {
        char room[16];
        memset(room, 'x', 16 + zero + 48);
        sink = room[zero];
    } else if (!strcmp(way, "cpu-limit")) {
        setrlimit(RLIMIT_CPU, &limit);
        for (;;)
            sink++;
    } else if (!strcmp(way, "file-limit")) {
        limit.rlim_cur = limit.rlim_max = 4096;
        setrlimit(RLIMIT_FSIZE, &limit);
        sink = pwrite(open(path, O_RDWR | O_CREAT, 0600), "x", 1, 8192);
    } else if (!strcmp(way, "file-limit-sent"))
        kill(getpid(), SIGXFSZ);
    else if (!strcmp(way, "sent-segv"))
        sent_by_child(SIGSEGV);
    else if (!strcmp(way, "sent-bus"))
        sent_by_child(SIGBUS);
    else if (!strcmp(way, "sent-abort"))
        sent_by_child(SIGABRT);
    else if (!strcmp(way, "quit"))
        raise(SIGQUIT);
}

int main(int count, char **arguments)
{
    const char *way = arguments[1], *path = count > 2 ? arguments[2] : 0;
    signal(SIGQUIT, SIG_DFL); /* a shell's job in the background inherits that it is ignored */
    stacks(way);
    memory(way);
    signals(way, path);
    if (path)
        files(way, path);
    return 3;
}
