/* Energy as text. */
#ifndef EBB_APPS_ENERGY_SHOW_H
#define EBB_APPS_ENERGY_SHOW_H

#include <stddef.h>

/* "12.3 kJ (3.42 Wh)" */
const char *energy_text(double joules, char *text, size_t size);

#endif
