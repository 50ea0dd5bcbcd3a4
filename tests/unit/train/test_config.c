/* Run files: what is accepted, what is refused and how it is told. */
#include "support.h"
#include "train/config.h"

#include <math.h>

#define MINIMAL "data: {train: d}\nmodel: {layers: [{linear: {}}]}\n"

static ebb_status_t parse(const char *text, int n_sets, const char *const *sets, ebb_run_config_t **config_p)
{
    ebb_yaml_t yaml = {0};
    *config_p = NULL;
    ebb_status_t status = ebb_yaml_parse(text, strlen(text), "run.yaml", &yaml);
    for (int i = 0; i < n_sets && status == EBB_OK; i++)
        status = ebb_yaml_set(&yaml, sets[i]);
    if (status == EBB_OK)
        status = ebb_run_config_build(&yaml, config_p);
    ebb_yaml_free(&yaml);
    return status;
}

static void refused(const char *text, const char *message)
{
    ebb_run_config_t *c;
    assert_fails(parse(text, 0, NULL, &c), EBB_EUSAGE, message);
    assert_null(c);
}

static void defaults_fill_a_minimal_run(void **state)
{
    ebb_run_config_t *c;
    assert_ok(parse(MINIMAL, 0, NULL, &c));
    assert_string_equal(c->name, "run");
    assert_string_equal(ebb_run_config_dir(c), "runs/run");
    assert_int_equal(c->lanes, 24);
    assert_int_equal(c->optim.hyper.kind, EBB_OPTIM_ADAM);
    assert_true(fabsf(c->optim.hyper.lr - 0.001f) < 1e-9f);
    assert_int_equal(c->optim.schedule.kind, EBB_SCHEDULE_CONSTANT);
    ebb_run_config_free(c);
}

static void the_record_of_a_run_builds_the_same_run(void **state)
{
    ebb_run_config_t *c, *again;
    assert_ok(parse(MINIMAL "train: {batch: 100, optimizer: {sgd: {lr: 0.5, momentum: 0.9}}, schedule: step}\n", 0, NULL, &c));
    assert_ok(ebb_run_config_resume(ebb_run_config_json(c), 0, NULL, &again));
    assert_string_equal(ebb_run_config_json(c), ebb_run_config_json(again));
    assert_int_equal(again->optim.hyper.kind, EBB_OPTIM_SGD);
    ebb_run_config_free(c);
    ebb_run_config_free(again);
}

static void errors_name_line_and_nearest_key(void **state)
{
    refused(MINIMAL "train:\n  epochs: 2\n  bacth: 5\n", "run.yaml:5: unknown key \"train.bacth\"; did you mean \"train.batch\"?");
    refused(MINIMAL "train: {optimizer: {adm: {}}}\n", "did you mean \"adam\"?");
    refused(MINIMAL "train: {optimizer: {adam: {learning: 1}}}\n", "run.yaml:3: unknown key \"train.optimizer.adam.learning\"");
    refused(MINIMAL "train: {epochs: many}\n", "run.yaml:3: train.epochs");
    refused(MINIMAL "train: 5\n", "run.yaml:3: train: expected keys below it");
    refused(MINIMAL "train: {batch: 10}\n", "fewer than the 24 lanes");
    refused("model: {layers: []}\n", "data.train is missing");
    refused("data: {train: d}\n", "model section is missing");
    refused("- 1\n", "expected lines of the form");
    refused(MINIMAL "train: {early_stopping: {patience: 1}}\n", "needs validation data");
    refused(MINIMAL "train: {class_weights: 7}\n", "expected balanced");
    refused(MINIMAL "run: {name: a/b}\n", "cannot name a folder");
}

static void overrides_win_and_are_named_in_errors(void **state)
{
    ebb_run_config_t *c;
    const char *good[] = {"train.batch=240", "train.optimizer.adam.lr=0.5"}, *bad[] = {"train.batsh=240"};
    assert_ok(parse(MINIMAL "train: {batch: 48}\n", 2, good, &c));
    assert_int_equal(c->batch, 240);
    assert_true(c->optim.hyper.lr == 0.5f);
    ebb_run_config_free(c);
    assert_fails(parse(MINIMAL, 1, bad, &c), EBB_EUSAGE, "--set");
}

static void a_resumed_run_may_not_change_its_numbers(void **state)
{
    ebb_run_config_t *c, *again;
    const char *harmless[] = {"train.threads=2", "data.memory=64MiB"}, *harmful[] = {"train.batch=48"};
    assert_ok(parse(MINIMAL, 0, NULL, &c));
    assert_ok(ebb_run_config_resume(ebb_run_config_json(c), 2, harmless, &again));
    assert_int_equal(again->threads, 2);
    ebb_run_config_free(again);
    assert_fails(ebb_run_config_resume(ebb_run_config_json(c), 1, harmful, &again), EBB_EUSAGE, "cannot change when a run is resumed");
    ebb_run_config_free(c);
}

static void every_key_is_documented(void **state)
{
    char *help = ebb_run_config_help(100);
    assert_non_null(help);
    const char *const keys[] = {"train.batch", "data.train", "checkpoint.keep", "one_cycle", "ftrl", "layer_norm", "huber", NULL};
    for (int i = 0; keys[i]; i++)
        assert_non_null(strstr(help, keys[i]));
    free(help);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_a_minimal_run),
        cmocka_unit_test(the_record_of_a_run_builds_the_same_run),
        cmocka_unit_test(errors_name_line_and_nearest_key),
        cmocka_unit_test(overrides_win_and_are_named_in_errors),
        cmocka_unit_test(a_resumed_run_may_not_change_its_numbers),
        cmocka_unit_test(every_key_is_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
