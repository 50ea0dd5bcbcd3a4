/* ebb ckpt list, verify and diff: what a run's checkpoints hold, whether they are whole, and how two of them differ. */
#include "commands.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <ebb/checkpoint.h>

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ckpt_options {
    bool json;
} ckpt_options_t;

static const ebb_option_t list_options[] = {
    {"json", 0, EBB_OPT_FLAG, offsetof(ckpt_options_t, json), NULL, NULL, 0, 0, NULL,
     "Print JSON: an array, newest checkpoint first"},
    {0},
};
static const ebb_option_t verify_options[] = {
    {"json", 0, EBB_OPT_FLAG, offsetof(ckpt_options_t, json), NULL, NULL, 0, 0, NULL, "Print one JSON object per file"},
    {0},
};
static const ebb_option_t diff_options[] = {
    {"json", 0, EBB_OPT_FLAG, offsetof(ckpt_options_t, json), NULL, NULL, 0, 0, NULL,
     "Print JSON: whether the bits are equal, and each difference"},
    {0},
};

/* ---- what all three need ---- */

/* The folder of a run's checkpoints, given it or the run's folder. */
static ebb_status_t find_folder(const char *path, char folder[PATH_MAX])
{
    char found[PATH_MAX];
    path = ebb_run_named(path, found);
    if (snprintf(folder, PATH_MAX, "%s/checkpoints", path) >= PATH_MAX)
        return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", path);
    if (!ebb_file_is_dir(folder))
        snprintf(folder, PATH_MAX, "%s", path);
    return EBB_OK;
}

static ebb_status_t list_folder(const char *path, char folder[PATH_MAX], ebb_checkpoint_entry_t **entry_p, int64_t *n_p)
{
    EBB_TRY(find_folder(path, folder));
    if (!ebb_file_exists(folder))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no such run; name its folder, as in runs/NAME", path);
    EBB_TRY(ebb_checkpoint_list(folder, entry_p, n_p));
    if (*n_p > 0)
        return EBB_OK;
    ebb_checkpoint_list_free(*entry_p);
    return EBB_FAIL(EBB_ENOINPUT, "%s: no checkpoints here; name a run's folder, as in runs/NAME", path);
}

static ebb_status_t join(const char *folder, const char *name, char path[PATH_MAX])
{
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", folder);
    return EBB_OK;
}

/* One file as list and verify see it. */
typedef struct look {
    bool good, temporary;
    int64_t step, epoch; /* epoch: under way or just done, from 1; 0: not known */
    char weights_sha256[65];
    char fault[512]; /* empty: none */
} look_t;

/* Damage is what is looked for; only being out of memory is this command's own failure. */
static ebb_status_t look_at(const char *path, look_t *look)
{
    ebb_checkpoint_meta_t meta = {0};
    ebb_status_t status = ebb_checkpoint_verify(path);
    if (status == EBB_OK)
        status = ebb_checkpoint_read_meta(path, &meta);
    look->good = status == EBB_OK;
    if (look->good) {
        look->step = meta.step;
        look->epoch = meta.cursor.epoch + (meta.cursor.step > 0 || meta.cursor.epoch == 0);
        memcpy(look->weights_sha256, meta.weights_sha256, sizeof look->weights_sha256);
        ebb_checkpoint_meta_free(&meta);
        return EBB_OK;
    }
    if (status == EBB_ENOMEM)
        return status;
    snprintf(look->fault, sizeof look->fault, "%s", ebb_error()->message);
    ebb_error_clear();
    return EBB_OK;
}

static ebb_status_t print_dump(json_t *json, size_t flags)
{
    char *text = json ? json_dumps(json, flags) : NULL;
    json_decref(json);
    if (!text)
        return EBB_FAIL(EBB_EDATA, "a name is not valid UTF-8, so it cannot be shown as JSON");
    puts(text);
    free(text);
    return EBB_OK;
}

/* ---- list ---- */

static const char *state_of(const look_t *look)
{
    return look->temporary ? "unfinished" : look->good ? "verified" : "torn";
}

static json_t *entry_json(const char *path, const ebb_checkpoint_entry_t *e, const look_t *look, bool newest)
{
    return json_pack("{s:s, s:I, s:o, s:I, s:f, s:s, s:b, s:s, s:s}", "path", path, "step", (json_int_t)e->step,
                     "epoch", look->epoch > 0 ? json_integer(look->epoch) : json_null(), "bytes", (json_int_t)e->bytes,
                     "age_seconds", ebb_system_seconds() - e->modified, "state", state_of(look), "newest_good",
                     (int)newest, "weights_sha256", look->weights_sha256, "fault", look->fault);
}

static void print_entry(const ebb_checkpoint_entry_t *e, const look_t *look, bool newest)
{
    char epoch[24] = "-", size[32], age[32];
    double seconds = ebb_system_seconds() - e->modified;
    if (look->epoch > 0)
        snprintf(epoch, sizeof epoch, "%lld", (long long)look->epoch);
    printf("%12lld %6s %10s %10s  %-10s %s%s\n", (long long)e->step, epoch,
           ebb_format_bytes((double)e->bytes, size, sizeof size),
           ebb_format_duration(seconds > 0 ? seconds : 0, age, sizeof age), state_of(look), e->name,
           newest ? "  <- newest good one" : "");
}

static ebb_status_t list_entries(const char *folder, const ebb_checkpoint_entry_t *entry, int64_t n, json_t *array)
{
    bool found = false;
    char path[PATH_MAX];
    for (int64_t i = 0; i < n; i++) {
        look_t look = {.temporary = entry[i].temporary};
        EBB_TRY(join(folder, entry[i].name, path));
        if (!look.temporary)
            EBB_TRY(look_at(path, &look));
        bool newest = look.good && !found;
        found |= newest;
        if (array)
            json_array_append_new(array, entry_json(path, &entry[i], &look, newest));
        else
            print_entry(&entry[i], &look, newest);
    }
    return EBB_OK;
}

static ebb_status_t run_list(void *target, int n_operands, char **operands)
{
    const ckpt_options_t *o = target;
    char folder[PATH_MAX];
    ebb_checkpoint_entry_t *entry;
    int64_t n;
    EBB_TRY(list_folder(operands[0], folder, &entry, &n));
    json_t *array = o->json ? json_array() : NULL;
    if (!o->json)
        printf("%12s %6s %10s %10s  %-10s file\n", "step", "epoch", "size", "age", "state");
    ebb_status_t status = list_entries(folder, entry, n, array);
    ebb_checkpoint_list_free(entry);
    if (status == EBB_OK && o->json)
        return print_dump(array, JSON_INDENT(2));
    json_decref(array);
    return status;
}

/* ---- verify ---- */

static ebb_status_t verify_one(const ckpt_options_t *o, const char *path, int64_t *faults_p)
{
    look_t look = {0};
    EBB_TRY(look_at(path, &look));
    *faults_p += !look.good;
    if (o->json)
        return print_dump(json_pack("{s:s, s:b, s:s, s:s}", "path", path, "good", (int)look.good, "weights_sha256",
                                    look.weights_sha256, "fault", look.fault),
                          JSON_COMPACT);
    if (look.good)
        printf("%s: no faults (step %lld, weights %s)\n", path, (long long)look.step, look.weights_sha256);
    else
        printf("%s\n", look.fault);
    return EBB_OK;
}

static ebb_status_t verify_folder(const ckpt_options_t *o, const char *path, int64_t *faults_p)
{
    char folder[PATH_MAX], file[PATH_MAX];
    ebb_checkpoint_entry_t *entry;
    int64_t n;
    EBB_TRY(list_folder(path, folder, &entry, &n));
    ebb_status_t status = EBB_OK;
    for (int64_t i = 0; status == EBB_OK && i < n; i++) {
        if (entry[i].temporary)
            continue;
        status = join(folder, entry[i].name, file);
        if (status == EBB_OK)
            status = verify_one(o, file, faults_p);
    }
    ebb_checkpoint_list_free(entry);
    return status;
}

static ebb_status_t run_verify(void *target, int n_operands, char **operands)
{
    int64_t faults = 0;
    for (int i = 0; i < n_operands; i++) {
        if (!ebb_file_exists(operands[i]))
            return EBB_FAIL(EBB_ENOINPUT, "%s: no such file or folder", operands[i]);
        if (ebb_file_is_dir(operands[i]))
            EBB_TRY(verify_folder(target, operands[i], &faults));
        else
            EBB_TRY(verify_one(target, operands[i], &faults));
    }
    if (faults > 0)
        return EBB_FAIL(EBB_ECORRUPT, "%lld damaged file%s; a run goes on from the newest good checkpoint by itself",
                        (long long)faults, faults == 1 ? "" : "s");
    return EBB_OK;
}

/* ---- diff ---- */

typedef struct diff {
    bool json, different;
    json_t *arrays, *config;
} diff_t;

static void array_name(const ebb_checkpoint_difference_t *d, char name[160])
{
    snprintf(name, 160, "%s%s/%s", d->state ? "optimizer/" : "weights", d->state ? d->state : "", d->name);
}

static json_t *number_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *difference_json(const ebb_checkpoint_difference_t *d, const char *name)
{
    if (!d->there[0] || !d->there[1])
        return json_pack("{s:s, s:s}", "array", name, "only_in", d->there[0] ? "a" : "b");
    if (d->values == 0)
        return json_pack("{s:s, s:[[I, I], [I, I]]}", "array", name, "shapes", (json_int_t)d->rows[0],
                         (json_int_t)d->cols[0], (json_int_t)d->rows[1], (json_int_t)d->cols[1]);
    return json_pack("{s:s, s:I, s:I, s:[I, I], s:[o, o], s:o}", "array", name, "values", (json_int_t)d->values,
                     "differing", (json_int_t)d->differing, "first", (json_int_t)d->first_row, (json_int_t)d->first_col,
                     "first_values", number_json(d->first[0]), number_json(d->first[1]), "largest",
                     number_json(d->largest));
}

static void print_difference(const ebb_checkpoint_difference_t *d, const char *name)
{
    if (!d->there[0] || !d->there[1])
        printf("%s: only in the %s file\n", name, d->there[0] ? "first" : "second");
    else if (d->values == 0)
        printf("%s: %lld x %lld and %lld x %lld\n", name, (long long)d->rows[0], (long long)d->cols[0],
               (long long)d->rows[1], (long long)d->cols[1]);
    else
        printf("%s: %lld of %lld differ, first [%lld, %lld] (%.9g and %.9g), largest difference %.9g\n", name,
               (long long)d->differing, (long long)d->values, (long long)d->first_row, (long long)d->first_col,
               (double)d->first[0], (double)d->first[1], d->largest);
}

static void hear_difference(void *user, const ebb_checkpoint_difference_t *d)
{
    diff_t *diff = user;
    char name[160];
    array_name(d, name);
    diff->different = true;
    if (diff->json)
        json_array_append_new(diff->arrays, difference_json(d, name));
    else
        print_difference(d, name);
}

/* A file as it is named, or the newest good checkpoint of a run. */
static ebb_status_t pick_file(const char *operand, char path[PATH_MAX])
{
    char folder[PATH_MAX];
    ebb_checkpoint_entry_t *entry;
    int64_t n;
    if (!ebb_file_is_dir(operand)) {
        if (snprintf(path, PATH_MAX, "%s", operand) >= PATH_MAX)
            return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", operand);
        return EBB_OK;
    }
    EBB_TRY(list_folder(operand, folder, &entry, &n));
    bool found = false;
    ebb_status_t status = EBB_OK;
    for (int64_t i = 0; status == EBB_OK && i < n && !found; i++) {
        look_t look = {0};
        status = join(folder, entry[i].name, path);
        if (status == EBB_OK && !entry[i].temporary)
            status = look_at(path, &look);
        found = look.good;
    }
    ebb_checkpoint_list_free(entry);
    if (status == EBB_OK && !found)
        return EBB_FAIL(EBB_ENOINPUT, "%s: no checkpoint that can be loaded", operand);
    return status;
}

static void note_key(diff_t *diff, const char *key, const json_t *a, const json_t *b)
{
    char *x = a ? json_dumps(a, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    char *y = b ? json_dumps(b, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    if (diff->json)
        json_array_append_new(diff->config, json_pack("{s:s, s:O?, s:O?}", "key", key, "a", a, "b", b));
    else
        printf("config %s: %s and %s\n", key, x ? x : "nothing", y ? y : "nothing");
    free(x);
    free(y);
}

/* Walks two configurations; keys of the second that the first lacks come last. */
static void compare_config(diff_t *diff, const char *key, const json_t *a, const json_t *b)
{
    const char *name;
    json_t *value;
    char full[256];
    if (a && b && json_equal(a, b))
        return;
    if (!json_is_object(a) || !json_is_object(b)) {
        note_key(diff, key, a, b);
        return;
    }
    json_object_foreach((json_t *)a, name, value)
    {
        snprintf(full, sizeof full, "%s%s%s", key, *key ? "." : "", name);
        compare_config(diff, full, value, json_object_get(b, name));
    }
    json_object_foreach((json_t *)b, name, value)
    {
        snprintf(full, sizeof full, "%s%s%s", key, *key ? "." : "", name);
        if (!json_object_get(a, name))
            note_key(diff, full, NULL, value);
    }
}

static ebb_status_t compare_meta(diff_t *diff, char path[2][PATH_MAX], const ebb_checkpoint_meta_t meta[2])
{
    json_t *config[2] = {0};
    ebb_status_t status = EBB_OK;
    for (int k = 0; status == EBB_OK && k < 2; k++)
        status = ebb_json_parse(meta[k].config, strlen(meta[k].config), path[k], &config[k]);
    diff->different |= meta[0].step != meta[1].step;
    if (meta[0].step != meta[1].step && !diff->json)
        printf("step: %lld and %lld\n", (long long)meta[0].step, (long long)meta[1].step);
    if (status == EBB_OK)
        compare_config(diff, "", config[0], config[1]);
    json_decref(config[0]);
    json_decref(config[1]);
    return status;
}

static ebb_status_t show_diff(diff_t *diff, char path[2][PATH_MAX], const ebb_checkpoint_meta_t meta[2])
{
    EBB_TRY(compare_meta(diff, path, meta));
    EBB_TRY(ebb_checkpoint_compare(path[0], path[1], hear_difference, diff));
    ebb_command_exit = diff->different;
    if (!diff->json) {
        if (!diff->different)
            printf("equal: step %lld, weights %s\n", (long long)meta[0].step, meta[0].weights_sha256);
        return EBB_OK;
    }
    return print_dump(json_pack("{s:b, s:s, s:s, s:[I, I], s:[s, s], s:O, s:O}", "equal", (int)!diff->different, "a",
                                path[0], "b", path[1], "step", (json_int_t)meta[0].step, (json_int_t)meta[1].step,
                                "weights_sha256", meta[0].weights_sha256, meta[1].weights_sha256, "config",
                                diff->config, "arrays", diff->arrays),
                      JSON_INDENT(2));
}

static ebb_status_t run_diff(void *target, int n_operands, char **operands)
{
    diff_t diff = {.json = ((const ckpt_options_t *)target)->json, .arrays = json_array(), .config = json_array()};
    ebb_checkpoint_meta_t meta[2] = {0};
    char path[2][PATH_MAX];
    ebb_status_t status = EBB_OK;
    for (int k = 0; status == EBB_OK && k < 2; k++) {
        status = pick_file(operands[k], path[k]);
        if (status == EBB_OK)
            status = ebb_checkpoint_read_meta(path[k], &meta[k]);
    }
    if (status == EBB_OK)
        status = show_diff(&diff, path, meta);
    for (int k = 0; k < 2; k++)
        ebb_checkpoint_meta_free(&meta[k]);
    json_decref(diff.arrays);
    json_decref(diff.config);
    return status;
}

/* ---- the commands ---- */

static const ebb_example_t list_examples[] = {
    {"What a run has kept", "ebb ckpt list runs/clicks"},
    {"The file that --resume would go on from",
     "ebb ckpt list runs/clicks --json | jq -r '.[] | select(.newest_good) | .path'"},
    {0},
};
static const ebb_example_t verify_examples[] = {
    {"Check all checkpoints of a run", "ebb ckpt verify runs/clicks"},
    {"Check a model after copying it", "ebb ckpt verify model.h5"},
    {0},
};
static const ebb_example_t diff_examples[] = {
    {"Did the run on other ranks give the same bits?", "ebb ckpt diff runs/one runs/four"},
    {"What a thousand steps changed",
     "ebb ckpt diff runs/a/checkpoints/step-000001000.h5 runs/a/checkpoints/step-000002000.h5"},
    {0},
};

const ebb_command_t cmd_ckpt_list = {
    .name = "ckpt list",
    .help = "List a run's checkpoints and whether they are whole",
    .operands = "RUN",
    .about =
        "Prints step, epoch, size, age and state of each checkpoint, newest first, with a mark at the one from\n"
        "which `ebb train --resume` goes on. Every hash is checked: \"verified\" or \"torn\"; \"unfinished\" is a\n"
        "file that is being written or was left behind. RUN is a run's folder or a folder of checkpoints.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = list_options,
    .options_bytes = sizeof(ckpt_options_t),
    .examples = list_examples,
    .run = run_list,
};

const ebb_command_t cmd_ckpt_verify = {
    .name = "ckpt verify",
    .help = "Check every hash of checkpoints and models",
    .operands = "PATH...",
    .about = "Reads each file in whole and checks its length, its seal, the hash of each array, and the SHA-256 of\n"
             "weights and optimiser state. A folder stands for all checkpoints in it. One line per file. Exit status\n"
             "65 if any is damaged.\n",
    .min_operands = 1,
    .max_operands = ANY_OPERANDS,
    .options = verify_options,
    .options_bytes = sizeof(ckpt_options_t),
    .examples = verify_examples,
    .run = run_verify,
};

const ebb_command_t cmd_ckpt_diff = {
    .name = "ckpt diff",
    .help = "Compare two checkpoints or models bit by bit",
    .operands = "A B",
    .about = "Names each array of weights or optimiser state that differs: how many values, the first one with its\n"
             "row and column, and the largest difference; also the steps, and the keys of the run file that were set\n"
             "otherwise. A run's folder stands for its newest good checkpoint.\n"
             "\n"
             "Exit status 0 if steps, weights and optimiser state are equal bit for bit, 1 if not. Keys of the run\n"
             "file are shown and do not count: runs on other ranks, or of another name, should be equal.\n",
    .min_operands = 2,
    .max_operands = 2,
    .options = diff_options,
    .options_bytes = sizeof(ckpt_options_t),
    .examples = diff_examples,
    .run = run_diff,
};
