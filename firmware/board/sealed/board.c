// What the sealed build does in C: the answer to input, and silence.

#include "esp_system.h"

#include "py/mpconfig.h"

void signet_refuse(void) {
    esp_restart();
}

// MicroPython's panic handler calls it, and a silent IDF leaves it out. What it would print is
// nobody's business.
void panic_print_str(const char *text) {
    (void)text;
}
