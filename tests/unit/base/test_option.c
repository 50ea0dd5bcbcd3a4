/* Option tables: from the command line, from JSON, to JSON and to help. */
#include "support.h"
#include "base/alloc.h"
#include "base/option.h"

#include <math.h>

typedef struct target {
    bool force, quiet;
    int64_t batch, memory;
    double lr;
    char *name;
    int mode;
    ebb_string_list_t set;
    json_t *layers;
} target_t;

static const char *const modes[] = {"exact", "fast", NULL};
#define AT(f) offsetof(target_t, f)
static const ebb_option_t table[] = {
    {"force", 'f', EBB_OPT_FLAG, AT(force), NULL, NULL, 0, 0, NULL, "Overwrite"},
    {"quiet", 'q', EBB_OPT_FLAG, AT(quiet), "true", NULL, 0, 0, NULL, "Say nothing"},
    {"batch", 'b', EBB_OPT_I64, AT(batch), "4096", "rows", 1, 1e9, NULL, "Global rows per step"},
    {"memory", 0, EBB_OPT_BYTES, AT(memory), "1G", "bytes", 1 << 20, INFINITY, NULL, "Budget"},
    {"train.lr", 0, EBB_OPT_F64, AT(lr), "0.001", NULL, 0, 0, NULL, "Step size"},
    {"name", 'n', EBB_OPT_STRING, AT(name), NULL, NULL, 0, 0, NULL, "Name of the run"},
    {"mode", 0, EBB_OPT_CHOICE, AT(mode), "exact", NULL, 0, 0, modes, "Way of adding"},
    {"set", 0, EBB_OPT_LIST, AT(set), NULL, "key=value", 0, 0, NULL, "Override a key of the run file"},
    {"model.layers", 0, EBB_OPT_JSON, AT(layers), NULL, NULL, 0, 0, NULL, "Layers"},
    {0},
};

static ebb_status_t parse(target_t *t, const char *line, int *n, char ***operands)
{
    static char copy[1000];
    static char *argv[50];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return ebb_options_parse(table, t, argc, argv, n, operands);
}

static void every_way_of_writing_an_option_is_read(void **state)
{
    target_t t;
    int n;
    char **operands;
    assert_ok(ebb_options_defaults(table, &t));
    assert_true(t.batch == 4096 && t.memory == 1 << 30 && t.lr == 0.001 && t.quiet && !t.force && !t.name);
    assert_ok(parse(&t, "ebb in --batch 7 --memory=2M -n run1 x --no-quiet -f --mode fast --set a=1 --set=b=2 - -- --y",
                    &n, &operands));
    assert_int_equal(n, 4);
    assert_string_equal(operands[0], "in");
    assert_string_equal(operands[1], "x");
    assert_string_equal(operands[2], "-");
    assert_string_equal(operands[3], "--y");
    assert_true(t.batch == 7 && t.memory == 2 << 20 && t.force && !t.quiet && t.mode == 1);
    assert_string_equal(t.name, "run1");
    assert_int_equal(t.set.n, 2);
    assert_string_equal(t.set.item[0], "a=1");
    assert_string_equal(t.set.item[1], "b=2");
    assert_ok(parse(&t, "ebb -fb12 --force=no", &n, &operands));
    assert_true(t.batch == 12 && !t.force && n == 0);
    assert_int_equal(parse(&t, "ebb --help", &n, &operands), EBB_END);
    assert_int_equal(parse(&t, "ebb -h", &n, &operands), EBB_END);
    ebb_options_free(table, &t);
    assert_null(t.name);
}

static void wrong_lines_say_what_is_right(void **state)
{
    static const char *const wrong[][2] = {
        {"ebb --bacth 3", "unknown option --bacth; did you mean --batch?"},
        {"ebb --zzzzzzzz", "unknown option --zzzzzzzz; --help lists the options"},
        {"ebb --no-batch", "unknown option --no-batch"},
        {"ebb -z", "unknown option -z"},
        {"ebb --batch", "--batch: a value must follow: a whole number (rows)"},
        {"ebb --batch --force", "--batch: a value must follow"},
        {"ebb --batch 0", "--batch: 0 is out of range; give 1 to 1000000000 rows"},
        {"ebb --batch 1.5", "--batch: \"1.5\" is not a whole number"},
        {"ebb --memory 3", "--memory: 3 is out of range; give at least 1048576 bytes"},
        {"ebb --mode fats", "--mode: \"fats\" is not one of exact, fast; did you mean fast?"},
        {"ebb --no-force=1", "--no-force takes no value"},
        {"ebb --force=perhaps", "--force: \"perhaps\" is neither true nor false"},
        {"ebb -b", "-b/--batch: a value must follow"},
    };
    target_t t;
    int n;
    char **operands;
    assert_ok(ebb_options_defaults(table, &t));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(parse(&t, wrong[i][0], &n, &operands), EBB_EUSAGE, wrong[i][1]);
    ebb_options_free(table, &t);
}

static const ebb_option_t *row(const char *name)
{
    const ebb_option_t *o = table;
    while (strcmp(o->name, name) != 0)
        o++;
    return o;
}

static ebb_status_t set_json(target_t *t, const char *name, const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    ebb_status_t status = ebb_option_set_json(row(name), t, value, "run.yaml:12");
    json_decref(value);
    return status;
}

static void json_values_must_have_the_type(void **state)
{
    target_t t;
    assert_ok(ebb_options_defaults(table, &t));
    assert_ok(set_json(&t, "batch", "1e3"));
    assert_int_equal(t.batch, 1000);
    assert_ok(set_json(&t, "memory", "\"4M\""));
    assert_int_equal(t.memory, 4 << 20);
    assert_ok(set_json(&t, "train.lr", "1"));
    assert_true(t.lr == 1);
    assert_ok(set_json(&t, "train.lr", "null"));
    assert_true(t.lr == 0.001);
    assert_ok(set_json(&t, "name", "2026"));
    assert_string_equal(t.name, "2026");
    assert_ok(set_json(&t, "set", "[\"a\", \"b\"]"));
    assert_ok(set_json(&t, "set", "\"c\""));
    assert_int_equal(t.set.n, 1);
    assert_ok(set_json(&t, "model.layers", "[{\"linear\": {}}]"));
    assert_fails(set_json(&t, "batch", "\"many\""), EBB_EUSAGE, "run.yaml:12: batch: \"many\" is not a whole number");
    assert_fails(set_json(&t, "batch", "1.5"), EBB_EUSAGE,
                 "run.yaml:12: batch: expected a whole number (rows), not 1.5");
    assert_fails(set_json(&t, "batch", "true"), EBB_EUSAGE, "expected a whole number");
    assert_fails(set_json(&t, "batch", "[1]"), EBB_EUSAGE, "expected a whole number");
    assert_fails(set_json(&t, "name", "{}"), EBB_EUSAGE, "expected a text, not {}");
    assert_fails(set_json(&t, "force", "1"), EBB_EUSAGE, "expected true or false, not 1");
    assert_fails(set_json(&t, "set", "[1]"), EBB_EUSAGE, "expected a list of texts");
    ebb_options_free(table, &t);
}

static void values_come_back_as_nested_json(void **state)
{
    target_t t;
    json_t *json;
    assert_ok(ebb_options_defaults(table, &t));
    assert_ok(set_json(&t, "model.layers", "[1]"));
    assert_ok(ebb_options_json(table, &t, &json));
    char *dump = ebb_json_dump(json);
    assert_string_equal(
        dump, "{\"batch\":4096,\"force\":false,\"memory\":1073741824,\"mode\":\"exact\",\"model\":{\"layers\":[1]},"
              "\"name\":null,\"quiet\":true,\"set\":[],\"train\":{\"lr\":0.001}}");
    free(dump);
    json_decref(json);
    ebb_options_free(table, &t);
}

static void help_shows_default_unit_and_range_within_the_width(void **state)
{
    ebb_text_t out = {0};
    ebb_options_help(table, &out, 60);
    assert_non_null(strstr(out.s, "  -b, --batch ROWS "));
    assert_non_null(strstr(out.s, "--mode exact|fast"));
    assert_non_null(strstr(out.s, "--memory SIZE"));
    for (char *line = strtok(out.s, "\n"); line; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 60);
    ebb_text_free(&out);
    ebb_options_help(row("batch"), &out, 200);
    assert_non_null(strstr(out.s, "Global rows per step (1 to 1000000000 rows; default 4096)"));
    ebb_text_free(&out);
    ebb_options_help_keys(table, &out, 100);
    assert_non_null(strstr(out.s, "  train.lr: X "));
    ebb_text_free(&out);
}

static void failed_allocations_are_reported_and_leak_nothing(void **state)
{
    static const char *const texts[][2] = {{"name", "abc"}, {"set", "a=1"}};
    for (int i = 0; i < 2; i++) {
        for (int n = 0; n <= i; n++) {
            target_t t;
            assert_ok(ebb_options_defaults(table, &t));
            ebb_alloc_fail_after(n);
            ebb_status_t status = ebb_option_set(row(texts[i][0]), &t, texts[i][1], "--x");
            ebb_alloc_fail_after(-1);
            assert_int_equal(status, EBB_ENOMEM);
            ebb_error_clear();
            ebb_options_free(table, &t);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_of_writing_an_option_is_read),
        cmocka_unit_test(wrong_lines_say_what_is_right),
        cmocka_unit_test(json_values_must_have_the_type),
        cmocka_unit_test(values_come_back_as_nested_json),
        cmocka_unit_test(help_shows_default_unit_and_range_within_the_width),
        cmocka_unit_test(failed_allocations_are_reported_and_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
