/* Reads plan images (uint32 steps, uint32 size, bytes) from standard input and has core.c prepare each. Of those that
 * it accepts, everything that the child would read is read. Built with sanitizers: what is out of bounds ends it.
 * Prints one digit an image: 1 accepted, 0 refused. Carries out nothing. */
#include "../../jupyter_ns/core/core.c"

#include <stdio.h>

static volatile uint64_t seen;

static void read_bytes(const char *at, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        seen += (unsigned char)at[i];
}

static void read_list(uint32_t offset)
{
    for (char **each = list_of(offset); *each; each++)
        seen += strlen(*each);
}

static void read_step(const jns_step *step)
{
    const char *s[4];
    for (int k = 0; k < 4; k++) {
        s[k] = step->s[k] ? (const char *)the_run.image + step->s[k] : NULL;
        if (s[k] && step->op != JNS_EXEC)
            seen += strlen(s[k]);
    }
    read_bytes(s[0], element_size(step->op) * (uint64_t)step->n[0]);
    if (step->op == JNS_FDS)
        for (int64_t i = 0; i < 2 * step->n[0]; i++)
            seen += (uint32_t)((const int32_t *)(const void *)s[0])[i];
    if (step->op == JNS_WRITE && s[1])
        read_bytes(s[1], (uint64_t)step->n[0]);
    if (step->op == JNS_LINK_UP)
        seen += (unsigned char)s[0][0];
    if (step->op == JNS_EXEC)
        for (int k = 0; k < 3; k++)
            read_list(step->s[k]);
}

int main(void)
{
    uint32_t header[2];
    while (fread(header, sizeof header, 1, stdin) == 1) {
        unsigned char *image = malloc(header[1] ? header[1] : 1);
        if (!image || fread(image, 1, header[1], stdin) != header[1])
            return 2;
        int r = prepare(image, header[1], header[0], -1, -1);
        free(image);
        if (r == 0) {
            for (uint32_t i = 0; i < header[0]; i++)
                read_step(&the_run.steps[i]);
            free(the_run.image);
        }
        putchar(r == 0 ? '1' : '0');
    }
    return 0;
}
