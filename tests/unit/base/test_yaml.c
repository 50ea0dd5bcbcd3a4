/* YAML to JSON with lines, and overrides. */
#include "support.h"
#include "base/alloc.h"
#include "base/yaml.h"

static ebb_status_t parse(const char *text, ebb_yaml_t *yaml)
{
    return ebb_yaml_parse(text, strlen(text), "run.yaml", yaml);
}

static void assert_json(const ebb_yaml_t *yaml, const char *expected)
{
    char *dump = ebb_json_dump(yaml->root);
    assert_string_equal(dump, expected);
    free(dump);
}

static const char run[] = "run: {name: sections, dir: runs}\n"
                          "lanes:  24\n"
                          "model:\n"
                          "  loss: softmax_cross_entropy\n"
                          "  layers:\n"
                          "    - linear: {out: 64}\n"
                          "    - relu: {}\n"
                          "    - linear: {}   # width follows\n"
                          "train:\n"
                          "  optimizer: {adam: {lr: 0.001}}\n";

static void a_run_file_becomes_json_with_lines(void **state)
{
    ebb_yaml_t y;
    assert_ok(parse(run, &y));
    assert_json(&y, "{\"lanes\":24,\"model\":{\"layers\":[{\"linear\":{\"out\":64}},{\"relu\":{}},{\"linear\":{}}],"
                    "\"loss\":\"softmax_cross_entropy\"},\"run\":{\"dir\":\"runs\",\"name\":\"sections\"},"
                    "\"train\":{\"optimizer\":{\"adam\":{\"lr\":0.001}}}}");
    assert_string_equal(ebb_yaml_where(&y, "lanes"), "run.yaml:2");
    assert_string_equal(ebb_yaml_where(&y, "model.layers[1]"), "run.yaml:7");
    assert_string_equal(ebb_yaml_where(&y, "model.layers[2].linear.out"), "run.yaml:8");
    assert_string_equal(ebb_yaml_where(&y, "nothing"), "run.yaml");
    ebb_yaml_free(&y);
}

static void errors_that_begin_with_a_key_path_get_its_line(void **state)
{
    static const char *const said[][2] = {
        {"model.layers[1].relu: wrong", "run.yaml:7: model.layers[1].relu: wrong"},
        {"model.layers[0].linear: unknown key \"out\"; no", "run.yaml:6: model.layers[0].linear: unknown key"},
        {"model: wrong", "run.yaml:3: model: wrong"},
        {"models are wrong", "models are wrong"},
        {"x", "x"},
    };
    ebb_yaml_t y;
    assert_ok(parse(run, &y));
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        EBB_FAIL(EBB_EUSAGE, "%s", said[i][0]);
        assert_fails(ebb_yaml_locate_error(&y, "model"), EBB_EUSAGE, said[i][1]);
    }
    ebb_yaml_free(&y);
}

static void plain_scalars_follow_the_core_schema(void **state)
{
    ebb_yaml_t y;
    assert_ok(parse("a: [1, -2, 0x1F, 0o17, 1e3, .5, 1., 1.5e-3, true, False, null, ~, yes, '1', \"true\", 08x, 1_000, "
                    "99999999999999999999]\n",
                    &y));
    assert_json(
        &y, "{\"a\":[1,-2,31,15,1000.0,0.5,1.0,0.0015,true,false,null,null,\"yes\",\"1\",\"true\",\"08x\",\"1_000\","
            "1e20]}");
    ebb_yaml_free(&y);
}

static void mistakes_are_named_with_line_and_column(void **state)
{
    static const char *const wrong[][2] = {
        {"a: 1\nb: 2\na: 3\n", "run.yaml:3:1: the key \"a\" is given twice"},
        {"a: &x 1\nb: 2\n", "run.yaml:1:4: anchors"},
        {"a: 1\nb: *x\n", "run.yaml:2:4: aliases"},
        {"a: !!str 1\n", "run.yaml:1:4: tags"},
        {"a: 1\n\tb: 2\n", "run.yaml:2:1: a tab where YAML wants spaces; indent with spaces"},
        {"a: [1, 2\nb: 3\n", "run.yaml:2:"},
        {"a: .inf\n", "run.yaml:1:4: numbers must be finite"},
        {"a: 1e999\n", "run.yaml:1:4: the number is too large"},
        {"a: 0xFFFFFFFFFFFFFFFFFF\n", "64 bits"},
        {"a: 1\n---\nb: 2\n", "a second document"},
        {"{[1]: 2}\n", "a key must be a plain word"},
        {"", "run.yaml: empty"},
        {"# nothing\n", "run.yaml: empty"},
        {"- 1\n- 2\n", "key: value"},
        {"a: \"x\\0y\"\n", "zero byte"},
        {"a: \xff\xfe\n", "run.yaml: byte"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ebb_yaml_t y;
        assert_fails(parse(wrong[i][0], &y), EBB_EUSAGE, wrong[i][1]);
        assert_null(y.root);
    }
}

static void hostile_sizes_are_refused(void **state)
{
    static char text[200000];
    ebb_yaml_t y;
    memset(text, '[', 300);
    memcpy(text, "a: ", 3);
    text[300] = 0;
    assert_fails(parse(text, &y), EBB_EUSAGE, "nested deeper than 64 levels");
    memset(text, 'k', 700);
    memcpy(text + 700, ": 1", 4);
    assert_fails(parse(text, &y), EBB_EUSAGE, "too long");
    assert_fails(ebb_yaml_load("/nonexistent/run.yaml", &y), EBB_ENOINPUT, "/nonexistent/run.yaml");
    char *p = text + sprintf(text, "a: [");
    while (p < text + sizeof text - 10)
        p += sprintf(p, ",");
    assert_fails(parse(text, &y), EBB_EUSAGE, "run.yaml:1:");
}

static void overrides_reach_every_place(void **state)
{
    ebb_yaml_t y;
    assert_ok(parse(run, &y));
    assert_ok(ebb_yaml_set(&y, "lanes=8"));
    assert_ok(ebb_yaml_set(&y, "model.layers[0].linear.out=128"));
    assert_ok(ebb_yaml_set(&y, "model.layers[1]={gelu: {}}"));
    assert_ok(ebb_yaml_set(&y, "model.layers[3]={linear: {}}"));
    assert_ok(ebb_yaml_set(&y, "train.optimizer={sgd: {lr: 1, momentum: 0.9}}"));
    assert_ok(ebb_yaml_set(&y, "new.list[0].x=a=b"));
    assert_ok(ebb_yaml_set(&y, "run.name="));
    assert_json(
        &y,
        "{\"lanes\":8,\"model\":{\"layers\":[{\"linear\":{\"out\":128}},{\"gelu\":{}},{\"linear\":{}},{\"linear\":{}}],"
        "\"loss\":\"softmax_cross_entropy\"},\"new\":{\"list\":[{\"x\":\"a=b\"}]},"
        "\"run\":{\"dir\":\"runs\",\"name\":null},"
        "\"train\":{\"optimizer\":{\"sgd\":{\"lr\":1,\"momentum\":0.90000000000000002}}}}");
    assert_string_equal(ebb_yaml_where(&y, "lanes"), "--set");
    assert_string_equal(ebb_yaml_where(&y, "train.optimizer.adam.lr"), "--set");
    assert_string_equal(ebb_yaml_where(&y, "model.loss"), "run.yaml:4");
    assert_string_equal(ebb_yaml_where(&y, "model.layers[0].linear.out"), "--set");
    ebb_yaml_free(&y);
}

static void wrong_overrides_change_nothing_else_and_say_why(void **state)
{
    static const char *const wrong[][2] = {
        {"lanes", "--set lanes: write it as key=value"},
        {"=3", "key=value"},
        {"a..b=1", "a key is empty"},
        {"a.=1", "a key is empty"},
        {"lanes.x=1", "no object"},
        {"lanes[0]=1", "no list"},
        {"model.layers[9]=1", "beyond the list of 3"},
        {"model.layers[x]=1", "list index"},
        {"model.layers[0=1", "list index"},
        {"model.layers[0]x=1", "after ]"},
        {"model[0]=1", "no list"},
        {"model.layers.x=1", "no object"},
        {"a=[1", "--set a:2:1:"},
        {"model.layers[-1]=1", "list index"},
        {"model.layers[99999999999999999999]=1", "list index"},
    };
    ebb_yaml_t y;
    assert_ok(parse(run, &y));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(ebb_yaml_set(&y, wrong[i][0]), EBB_EUSAGE, wrong[i][1]);
    assert_int_equal(json_integer_value(json_object_get(y.root, "lanes")), 24);
    ebb_yaml_free(&y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_file_becomes_json_with_lines),
        cmocka_unit_test(errors_that_begin_with_a_key_path_get_its_line),
        cmocka_unit_test(plain_scalars_follow_the_core_schema),
        cmocka_unit_test(mistakes_are_named_with_line_and_column),
        cmocka_unit_test(hostile_sizes_are_refused),
        cmocka_unit_test(overrides_reach_every_place),
        cmocka_unit_test(wrong_overrides_change_nothing_else_and_say_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
