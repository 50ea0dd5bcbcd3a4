/* JSON helpers. */
#include "support.h"
#include "base/json.h"

static void errors_name_line_and_column(void **state)
{
    json_t *json;
    static const char text[] = "{\"a\": 1,\n \"b\": }";
    assert_fails(ebb_json_parse(text, strlen(text), "manifest.json", &json), EBB_EDATA, "manifest.json:2:");
    assert_null(json);
    assert_fails(ebb_json_parse("", 0, "empty", &json), EBB_EDATA, "empty:");
    assert_fails(ebb_json_parse("{\"a\":1,\"a\":2}", 13, "twice", &json), EBB_EDATA, "duplicate");
    assert_fails(ebb_json_load("/nonexistent/manifest.json", &json), EBB_ENOINPUT, "/nonexistent/manifest.json");
}

static void members_are_checked_for_presence_and_type(void **state)
{
    json_t *json;
    int64_t rows;
    const char *name;
    static const char text[] = "{\"rows\": 12, \"name\": \"a9a\", \"ratio\": 1.5}";
    assert_ok(ebb_json_parse(text, strlen(text), "m", &json));
    assert_ok(ebb_json_get_i64(json, "rows", "m", &rows));
    assert_int_equal(rows, 12);
    assert_ok(ebb_json_get_string(json, "name", "m", &name));
    assert_string_equal(name, "a9a");
    assert_fails(ebb_json_get_i64(json, "cols", "m", &rows), EBB_EDATA, "\"cols\" is missing");
    assert_fails(ebb_json_get_i64(json, "ratio", "m", &rows), EBB_EDATA, "whole number, not a real number");
    assert_fails(ebb_json_get_string(json, "rows", "m", &name), EBB_EDATA, "text, not a whole number");
    assert_fails(ebb_json_get_i64(json_object_get(json, "name"), "x", "m", &rows), EBB_EDATA, "expected an object");
    json_decref(json);
}

static void dump_is_canonical(void **state)
{
    json_t *json;
    static const char text[] = " { \"b\" : [ 1 , 0.1 ], \"a\" : null } ";
    assert_ok(ebb_json_parse(text, strlen(text), "m", &json));
    char *dump = ebb_json_dump(json);
    assert_string_equal(dump, "{\"a\":null,\"b\":[1,0.10000000000000001]}");
    free(dump);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_name_line_and_column),
        cmocka_unit_test(members_are_checked_for_presence_and_type),
        cmocka_unit_test(dump_is_canonical),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
