/* ebb doctor: what of this machine Ebb can use, as a table or as JSON. The checks are in doctor_*.c. */
#include "commands.h"
#include "doctor.h"
#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOUND_COLUMN 23

static const char *const state_names[] = {"ok", "missing", "unusable"};

typedef struct doctor_options {
    bool json;
} doctor_options_t;

/* Words in lines of at most `width` columns, continued at FOUND_COLUMN. */
static void print_wrapped(const char *text, int width)
{
    int column = FOUND_COLUMN;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > FOUND_COLUMN && column + 1 + n > width) {
            printf("\n%*s", FOUND_COLUMN, "");
            column = FOUND_COLUMN;
        }
        column += printf("%s%.*s", column > FOUND_COLUMN ? " " : "", n, text);
        text += n + (text[n] == ' ');
    }
    printf("\n");
}

static void print_table(const doctor_t *doctor)
{
    int width = ebb_stdout_width();
    for (int i = 0; i < doctor->n; i++) {
        const doctor_row_t *row = &doctor->row[i];
        printf("%-12s %-9s ", row->name, state_names[row->state]);
        print_wrapped(row->found, width);
        if (row->cure[0]) {
            char cure[sizeof row->cure + 4];
            snprintf(cure, sizeof cure, "-> %s", row->cure);
            printf("%*s", FOUND_COLUMN, "");
            print_wrapped(cure, width);
        }
    }
}

static ebb_status_t print_json(const doctor_t *doctor, bool usable)
{
    json_t *checks = json_array();
    for (int i = 0; i < doctor->n; i++) {
        const doctor_row_t *row = &doctor->row[i];
        json_array_append_new(checks, json_pack("{s:s, s:s, s:b, s:s, s:s}", "name", row->name, "state",
                                                state_names[row->state], "required", (int)row->required, "found",
                                                row->found, "cure", row->cure));
    }
    json_t *json = json_pack("{s:s, s:b, s:o}", "version", ebb_version(), "usable", (int)usable, "checks", checks);
    char *dump = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!dump)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: report as JSON");
    puts(dump);
    free(dump);
    return EBB_OK;
}

static const doctor_row_t *first_obstacle(const doctor_t *doctor)
{
    for (int i = 0; i < doctor->n; i++)
        if (doctor->row[i].required && doctor->row[i].state != DOCTOR_OK)
            return &doctor->row[i];
    return NULL;
}

static ebb_status_t report(const doctor_t *doctor, bool json)
{
    const doctor_row_t *obstacle = first_obstacle(doctor);
    if (json)
        EBB_TRY(print_json(doctor, !obstacle));
    else
        print_table(doctor);
    if (obstacle)
        return EBB_FAIL(EBB_EUNAVAILABLE, "Ebb cannot work here: %s: %.200s", obstacle->name, obstacle->found);
    return EBB_OK;
}

static ebb_status_t examine_and_report(doctor_t *doctor, ebb_comm_t *comm, bool json)
{
    if (ebb_comm_size(comm) > 1)
        EBB_TRY(doctor_check_ranks(doctor, comm));
    if (ebb_comm_rank(comm) > 0)
        return EBB_OK;
    doctor_check_machine(doctor);
    doctor_check_libraries(doctor);
    doctor_check_cluster(doctor);
    doctor_check_devices(doctor);
    return report(doctor, json);
}

/* Under a launcher the first rank reports for its host; the others only tell of themselves. */
static ebb_status_t examine(doctor_t *doctor, bool json)
{
    ebb_comm_t *comm;
    EBB_TRY(ebb_comm_default(&comm));
    ebb_status_t status = ebb_comm_agree(comm, examine_and_report(doctor, comm, json));
    ebb_comm_destroy(comm);
    return status;
}

static ebb_status_t run(void *options, int n, char **operands)
{
    const doctor_options_t *o = options;
    doctor_t *doctor;
    EBB_TRY(EBB_NEW("report", &doctor));
    ebb_status_t status = examine(doctor, o->json);
    ebb_free(doctor);
    return status;
}

static const ebb_option_t options[] = {
    {.name = "json",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(doctor_options_t, json),
     .help = "print the report as JSON"},
    {0},
};

static const ebb_example_t examples[] = {
    {"Look at this machine", "ebb doctor"},
    {"See it as the ranks see it", "mpirun -n 2 ebb doctor"},
    {"What cannot be used, for scripts", "ebb doctor --json | jq '.checks[] | select(.state != \"ok\")'"},
    {0},
};

const ebb_command_t cmd_doctor = {
    .name = "doctor",
    .help = "Show what of this machine Ebb can use, and how to mend the rest",
    .operands = "",
    .about = "Looks at processor, memory, libraries, devices and scheduler, tries those that can be tried, and\n"
             "says of each whether it is ok, missing or unusable, and what to do about it. Exits with 69 if\n"
             "something without which Ebb cannot work is not usable.\n",
    .options = options,
    .options_bytes = sizeof(doctor_options_t),
    .examples = examples,
    .run = run,
};
