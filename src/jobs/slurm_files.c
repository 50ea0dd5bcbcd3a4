/* What a Slurm job of ours consists of on disk: the script that each of its parts runs, and what they leave behind. */
#include "jobs/slurm.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* ---- the script ---- */

/* In front of it stand here=..., folder=..., rerun=..., and the command as the positional parameters. */
static const char script[] =
    "job= told= part=$part_of_plan one=${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}\n"
    "# One part at a time: another may still be ending, on a node that the controller has lost.\n"
    "exec 9>>\"$here/lock$one\"\n"
    "flock 9\n"
    "[ -e \"$here/exit$one\" ] && exit 0 # it has ended\n"
    "[ -e \"$here/held\" ] && exit 0\n"
    "finish() {\n"
    "  echo \"$1\" >\"$here/exit$one.tmp\" && mv \"$here/exit$one.tmp\" \"$here/exit$one\"\n"
    "  exit \"$1\"\n"
    "}\n"
    "case $(tail -n 1 \"$here/starts$one\" 2>/dev/null) in\n"
    "'' | stop*' 75') ;; # the first start, or paused\n"
    "*) [ \"$rerun\" ] || finish 125 ;; # begun, and lost with its node\n"
    "esac\n"
    "end=$(cat \"$here/end-$part\" 2>/dev/null)\n"
    "limit=()\n"
    "if [ -n \"$end\" ]; then # this part's stretch of the plan ends then\n"
    "  left=$((end - $(date +%s)))\n"
    "  [ $left -ge 1 ] || exit 0\n"
    "  limit=(timeout --preserve-status --signal=USR1 $left)\n"
    "fi\n"
    "echo \"start $(date +%s) $part $SLURM_JOB_ID ${SLURM_NTASKS:-1}\" >>\"$here/starts$one\"\n"
    "cd \"$folder\" || finish 66\n"
    "trap 'told=pause; [ -n \"$job\" ] && kill -USR1 $job' USR1\n"
    "trap 'told=end; [ -n \"$job\" ] && kill -TERM $job' TERM\n"
    "\"${limit[@]}\" \"$@\" &\n"
    "job=$!\n"
    "wait $job\n"
    "status=$?\n"
    "while kill -0 $job 2>/dev/null; do # a signal ends `wait` early\n"
    "  wait $job\n"
    "  status=$?\n"
    "done\n"
    "[ $status -eq 138 ] && [ \"$told$end\" ] && status=75 # before it could hear of it\n"
    "echo \"stop $(date +%s) $status\" >>\"$here/starts$one\"\n"
    "[ $status -eq 0 ] && finish 0\n"
    "[ \"$told\" = end ] && exit $status # by Slurm: it is not over by itself\n"
    "[ $status -eq 75 ] || finish $status\n"
    "[ -e \"$here/held\" ] && exit 0\n"
    "[ -n \"$end\" ] && [ \"$(date +%s)\" -ge $((end - 1)) ] && exit 0 # paused; the next part goes on\n"
    "scontrol requeue \"$SLURM_JOB_ID\"\n" /* the time limit, or somebody else needs the nodes */
    "exit 75\n";

static void add_quoted(ebb_text_t *out, const char *text)
{
    ebb_text_append(out, "'", 1);
    for (; *text; text++)
        if (*text == '\'')
            ebb_text_append(out, "'\\''", 4);
        else
            ebb_text_append(out, text, 1);
    ebb_text_append(out, "'", 1);
}

static void add_command(ebb_text_t *out, const ebb_queue_spec_t *s, const char *self)
{
    ebb_text_add(out, "set --");
    if (s->run) {
        ebb_text_add(out, " ");
        add_quoted(out, self);
        ebb_text_add(out, " run");
    }
    for (char *const *word = s->word; *word; word++) {
        ebb_text_add(out, " ");
        add_quoted(out, *word);
    }
    ebb_text_add(out, "\n");
}

static ebb_status_t write_file(const char *folder, const char *name, const char *text, size_t bytes)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return ebb_file_replace(path, text, bytes);
}

static ebb_status_t write_script(const char *path, const ebb_queue_job_t *job, const char *self)
{
    ebb_text_t out = {0};
    ebb_text_add(&out, "#!/bin/bash\n# Job %lld of Ebb's queue: one part of its plan, the first argument's.\n",
                 (long long)job->id);
    ebb_text_add(&out, "part_of_plan=$1\nrerun=%s\nhere=", job->spec.rerun ? "yes" : "");
    add_quoted(&out, path);
    ebb_text_add(&out, "\nfolder=");
    add_quoted(&out, job->spec.folder);
    ebb_text_add(&out, "\n");
    add_command(&out, &job->spec, self);
    ebb_text_add(&out, "%s", script);
    ebb_status_t status =
        out.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: job script") : write_file(path, "job.sh", out.s, out.n);
    ebb_text_free(&out);
    return status;
}

/* ---- the folder ---- */

static int folder_of(const char *state, int64_t id, char path[PATH_MAX])
{
    return snprintf(path, PATH_MAX, "%s/slurm/%lld", state, (long long)id);
}

static ebb_status_t write_token(const char *path)
{
    uint64_t random;
    char text[24];
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return EBB_FAIL(EBB_EIO, "no random number from the system");
    snprintf(text, sizeof text, "%016llx", (unsigned long long)random);
    return write_file(path, "token", text, strlen(text));
}

ebb_status_t ebb_slurm_place_make(const char *state, const ebb_queue_job_t *job, const ebb_slurm_options_t *options)
{
    char path[PATH_MAX];
    ebb_text_t list = {0};
    if (folder_of(state, job->id, path) >= PATH_MAX)
        return EBB_FAIL(EBB_EUSAGE, "%.60s...: path too long", state);
    EBB_TRY(ebb_file_mkdirs(path));
    EBB_TRY(write_script(path, job, options->self));
    for (char *const *o = options->sbatch; o && *o; o++)
        ebb_text_add(&list, "%s\n", *o);
    ebb_status_t status = list.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: options") : EBB_OK;
    if (status == EBB_OK && list.n > 0)
        status = write_file(path, "options", list.s, list.n);
    ebb_text_free(&list);
    return status == EBB_OK ? write_token(path) : status; /* last: a folder with a token is whole */
}

static ebb_status_t read_options(ebb_slurm_place_t *place)
{
    char path[PATH_MAX + 16], *text;
    size_t bytes, n = 0;
    snprintf(path, sizeof path, "%s/options", place->path);
    if (!ebb_file_exists(path))
        return EBB_OK;
    EBB_TRY(ebb_file_read_all(path, &text, &bytes));
    ebb_status_t status = EBB_NEW_ARRAY("options of sbatch", (int64_t)bytes + 2, &place->option);
    char *rest = text, *line;
    while (status == EBB_OK && (line = strsep(&rest, "\n")))
        if (*line && (place->option[n++] = ebb_strdup(line))) {
            place->is_array |= strncmp(line, "--array", 7) == 0 || strncmp(line, "-a", 2) == 0;
        }
    ebb_free(text);
    return status;
}

ebb_status_t ebb_slurm_place_open(const char *state, int64_t id, ebb_slurm_place_t *place)
{
    char path[PATH_MAX + 16], *text;
    size_t bytes;
    *place = (ebb_slurm_place_t){0};
    folder_of(state, id, place->path);
    snprintf(path, sizeof path, "%s/token", place->path);
    EBB_TRY(ebb_file_read_all(path, &text, &bytes));
    snprintf(place->token, sizeof place->token, "%.16s", text);
    ebb_free(text);
    return read_options(place);
}

void ebb_slurm_place_free(ebb_slurm_place_t *place)
{
    for (char **o = place->option; o && *o; o++)
        ebb_free(*o);
    ebb_free(place->option);
    *place = (ebb_slurm_place_t){0};
}

/* ---- what parts read ---- */

ebb_status_t ebb_slurm_set_end(const ebb_slurm_place_t *place, int64_t part, double end)
{
    char name[32], text[32], path[PATH_MAX + 64];
    snprintf(name, sizeof name, "end-%lld", (long long)part);
    snprintf(path, sizeof path, "%s/%s", place->path, name);
    if (end > 0) {
        snprintf(text, sizeof text, "%.0f\n", end);
        return write_file(place->path, name, text, strlen(text));
    }
    return unlink(path) == 0 || !ebb_file_exists(path) ? EBB_OK : ebb_file_error(path, "remove");
}

ebb_status_t ebb_slurm_set_held(const ebb_slurm_place_t *place, bool held)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/held", place->path);
    if (held)
        return write_file(place->path, "held", "", 0);
    return unlink(path) == 0 || !ebb_file_exists(path) ? EBB_OK : ebb_file_error(path, "remove");
}

bool ebb_slurm_is_held(const ebb_slurm_place_t *place)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/held", place->path);
    return ebb_file_exists(path);
}

/* ---- what they leave ---- */

bool ebb_slurm_exit(const ebb_slurm_place_t *place, int *code_p)
{
    bool found = false;
    DIR *all = opendir(place->path);
    *code_p = 0;
    for (struct dirent *d; all && (d = readdir(all));) {
        char path[PATH_MAX + 300], *text;
        size_t bytes;
        if (strncmp(d->d_name, "exit", 4) != 0 || strchr(d->d_name, '.'))
            continue;
        snprintf(path, sizeof path, "%s/%s", place->path, d->d_name);
        if (ebb_file_read_all(path, &text, &bytes) != EBB_OK) {
            ebb_error_clear();
            continue;
        }
        int code = atoi(text);
        *code_p = code > *code_p ? code : *code_p;
        found = true;
        ebb_free(text);
    }
    if (all)
        closedir(all);
    return found;
}

void ebb_slurm_past(const ebb_slurm_place_t *place, ebb_slurm_past_t *past)
{
    char path[PATH_MAX + 16], *text, *rest, *line;
    size_t bytes;
    double time, started = 0;
    long long ranks;
    *past = (ebb_slurm_past_t){0};
    snprintf(path, sizeof path, "%s/starts", place->path);
    if (!ebb_file_exists(path) || ebb_file_read_all(path, &text, &bytes) != EBB_OK) {
        ebb_error_clear();
        return;
    }
    rest = text;
    while ((line = strsep(&rest, "\n"))) {
        if (sscanf(line, "start %lf %*d %*d %lld", &time, &ranks) == 2) {
            past->starts++;
            past->ranks = ranks;
            past->begun = past->begun > 0 ? past->begun : time;
            started = time;
        } else if (sscanf(line, "stop %lf", &time) == 1 && started > 0) {
            past->running_s += time - started;
            started = 0;
        }
    }
    ebb_free(text);
}
