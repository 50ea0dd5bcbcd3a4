/* Rows of the report, and a look at PATH, for the checks. */
#include "doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

doctor_row_t *doctor_add(doctor_t *doctor, const char *name, doctor_state_t state, const char *fmt, ...)
{
    doctor_row_t *row = &doctor->row[doctor->n < DOCTOR_ROWS ? doctor->n++ : DOCTOR_ROWS - 1];
    va_list args;
    *row = (doctor_row_t){.name = name, .state = state};
    va_start(args, fmt);
    vsnprintf(row->found, sizeof row->found, fmt, args);
    va_end(args);
    return row;
}

void doctor_cure(doctor_row_t *row, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(row->cure, sizeof row->cure, fmt, args);
    va_end(args);
}

bool doctor_find_program(const char *name, char *path, size_t size)
{
    const char *dir = getenv("PATH");
    char file[4096];
    while (dir && *dir) {
        int n = (int)strcspn(dir, ":");
        snprintf(file, sizeof file, "%.*s/%s", n, dir, name);
        if (n > 0 && access(file, X_OK) == 0) {
            if (path)
                snprintf(path, size, "%s", file);
            return true;
        }
        dir += n + (dir[n] == ':');
    }
    return false;
}
