/* An app that says, as the first thing it does, what time it is (CLOCK_MONOTONIC, which all containers share with the host), and then
   sleeps until it is ended. Without a C library, whose own beginning would be measured too. */
#if defined(__x86_64__)
#define CLOCK_GETTIME 228
#define WRITE 1
#define PAUSE 34
#define EXIT 60
#define ENTRY "and $-16, %rsp\n call begin\n"
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
#else
#error "the benchmark of the embedded engine knows x86-64 only"
#endif

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n" ENTRY);

__attribute__((used)) void begin(long *stack) {
    long now[2] = {0, 0};
    char text[24];
    int at = sizeof text;
    call(CLOCK_GETTIME, 1, (long)now, 0);
    text[--at] = '\n';
    for (long rest = now[0] * 1000000000 + now[1]; rest > 0; rest /= 10) text[--at] = (char)('0' + rest % 10);
    call(WRITE, 1, (long)(text + at), (long)sizeof text - at);
    /* With an argument it is done. */
    if (stack[0] > 1) call(EXIT, 0, 0, 0);
    for (;;) call(PAUSE, 0, 0, 0);
}
