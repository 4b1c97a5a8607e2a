/* Replaces rand() of a preloaded program by a generator seeded from SEXTRACT_PARITY_SEED (splitmix64, top 31 bits). */
#include <stdint.h>
#include <stdlib.h>

int rand(void)
{
    static uint64_t state;
    static int seeded;
    if (!seeded) {
        const char *text = getenv("SEXTRACT_PARITY_SEED");
        state = text ? strtoull(text, NULL, 10) * 0x2545F4914F6CDD1Dull : 0;
        seeded = 1;
    }
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (int)((z ^ (z >> 31)) >> 33);
}
