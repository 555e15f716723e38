/* Crashes in an inlined function, three calls deep; -fomit-frame-pointer leaves nothing but unwind tables. */
#include <stddef.h>

static int __attribute__((noinline)) opaque(int n)
{
	__asm__ volatile("" : "+r"(n));
	return n;
}

static inline __attribute__((always_inline)) int price_order(int *order)
{
	return *order + 1;
}

static __attribute__((noinline)) int match_book(int depth, int *order)
{
	return depth ? opaque(match_book(depth - 1, order)) + 1 : price_order(order) * 2;
}

int main(int count, char **arguments)
{
	(void)arguments;
	return match_book(3, count > 9 ? &count : NULL);
}
