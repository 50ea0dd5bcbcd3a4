/* Energy as text. */
#include "energy_show.h"

#include <stdio.h>

const char *energy_text(double j, char *text, size_t size)
{
    if (j < 1e3)
        snprintf(text, size, "%.3g J", j);
    else if (j < 3.6e6)
        snprintf(text, size, "%.3g kJ (%.3g Wh)", j / 1e3, j / 3600);
    else
        snprintf(text, size, "%.3g MJ (%.4g kWh)", j / 1e6, j / 3.6e6);
    return text;
}
