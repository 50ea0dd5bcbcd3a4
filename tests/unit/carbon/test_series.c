/* Intensity series: every form of file, what is left out of them, time zones and holes, and the ladder. */
#include "support.h"
#include "base/alloc.h"
#include <ebb/carbon.h>

#include <math.h>

static int64_t at(const char *text)
{
    int64_t time;
    assert_ok(ebb_carbon_parse_time(text, &time));
    return time;
}

static ebb_carbon_series_t parse(const char *text, const ebb_carbon_read_options_t *options)
{
    ebb_carbon_series_t s;
    assert_ok(ebb_carbon_parse(text, strlen(text), "text", options, &s));
    return s;
}

static void refuses(const char *text, const ebb_carbon_read_options_t *options, ebb_status_t status, const char *why)
{
    ebb_carbon_series_t s;
    assert_fails(ebb_carbon_parse(text, strlen(text), "text", options, &s), status, why);
    assert_null(s.point);
}

/* ---- times ---- */

static void times_of_every_form_are_one_moment(void **state)
{
    static const char *const same[] = {
        "2021-03-28T01:30Z",      "2021-03-28 01:30:00",       "2021-03-28T02:30+01:00",
        "2021-03-27T20:30-05:00", "2021-03-28T01:30:00.1230Z", "2021-03-28T03:30:00+0200",
        "2021/03/28 01:30",       "2021-03-28 01:30:00 UTC",   "1616895000",
        "1616895000000"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        assert_int_equal(at(same[i]), 1616895000);
    assert_int_equal(at("2024-02-29"), 1709164800);
    static const char *const wrong[] = {"",
                                        "yesterday",
                                        "2023-02-29",
                                        "2021-13-01",
                                        "2021-03-28T25:00Z",
                                        "2021-03-28T01:3",
                                        "2021-03-28T01:30X",
                                        "2021-03-28T01:30+99:00",
                                        "12",
                                        "2021-3-28"};
    int64_t time;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(ebb_carbon_parse_time(wrong[i], &time), EBB_EDATA, "is not a time");
}

static void a_day_on_which_clocks_change_has_all_of_its_hours(void **state)
{
    /* Berlin, 31 October 2021: 02:00 comes twice, once with each offset */
    ebb_carbon_series_t s = parse("time,g\n2021-10-31T01:00+02:00,100\n2021-10-31T02:00+02:00,200\n"
                                  "2021-10-31T02:00+01:00,300\n2021-10-31T03:00+01:00,400\n",
                                  NULL);
    double g[4];
    assert_int_equal(s.n, 4);
    assert_int_equal(s.repeated + s.holes, 0);
    ebb_carbon_sample(&s, at("2021-10-30T23:00Z"), 3600, 4, g, NULL);
    for (int i = 0; i < 4; i++)
        assert_true(g[i] == 100 * (i + 1));
    ebb_carbon_series_free(&s);
}

/* ---- CSV ---- */

static void columns_are_found_by_name_by_zone_or_alone(void **state)
{
    ebb_carbon_read_options_t fr = {.zone = "FR"}, column = {.column = "forecast"}, absent = {.column = "x"};
    const char *two = "time_utc,DE,FR\n2022-01-01T00:00Z,200,50\n2022-01-01T01:00Z,210,51\n";
    ebb_carbon_series_t s = parse(two, &fr);
    assert_true(s.n == 2 && s.point[1].g == 51);
    assert_string_equal(s.zone, "FR");
    ebb_carbon_series_free(&s);
    refuses(two, NULL, EBB_EDATA, "time_utc, DE, FR");
    refuses(two, &absent, EBB_EDATA, "no column x");
    const char *neso = "from_utc,to_utc,forecast,actual,index\n2023-01-01T00:00Z,2023-01-01T00:30Z,73,72.0,low\n";
    s = parse(neso, NULL);
    assert_true(s.point[0].g == 72 && !s.point[0].forecast && s.point[0].end - s.point[0].begin == 1800);
    ebb_carbon_series_free(&s);
    s = parse(neso, &column);
    assert_true(s.point[0].g == 73 && s.point[0].forecast);
    ebb_carbon_series_free(&s);
    s = parse("\"Time\";\"Carbon Intensity\"\r\n2020-01-01 00:30;42.5\r\n2020-01-01 00:00;41\r\n\r\n", NULL);
    assert_true(s.n == 2 && s.point[0].g == 41);
    ebb_carbon_series_free(&s);
}

static void what_cannot_be_is_left_out_and_counted_never_made_zero(void **state)
{
    const char *text = "time,g\n2022-01-01T00:00Z,100\n2022-01-01T01:00Z,0\n2022-01-01T02:00Z,\n2022-01-01T03:00Z,-5\n"
                       "2022-01-01T04:00Z,90000\n2022-01-01T05:00Z,null\n2022-01-01T06:00Z,200\n";
    ebb_carbon_read_options_t zeros = {.zeros = true};
    ebb_carbon_series_t s = parse(text, NULL);
    double g[7];
    int64_t known;
    assert_true(s.n == 2 && s.zeros == 1 && s.nulls == 2 && s.bad == 2);
    assert_true(s.holes == 1 && s.hole_s == 5 * 3600);
    ebb_carbon_sample(&s, at("2022-01-01T00:00Z"), 3600, 7, g, &known);
    assert_int_equal(known, 2);
    for (int i = 1; i < 6; i++)
        assert_true(isnan(g[i]));
    ebb_carbon_series_free(&s);
    s = parse(text, &zeros);
    assert_true(s.n == 3 && s.point[1].g == 0);
    ebb_carbon_series_free(&s);
    refuses("time,g\n2022-01-01T00:00Z,0\n2022-01-01T01:00Z,0\n", NULL, EBB_EDATA, "2 zeros and no other value");
    refuses("time,g\n2022-01-01T00:00Z,\n", NULL, EBB_EDATA, "no value among 1 empty");
    refuses("time,g\n", NULL, EBB_EDATA, "not a single value");
    refuses("", NULL, EBB_EDATA, "no column");
    refuses("time,g\n2022-01-01T00:00Z,1x\n", NULL, EBB_EDATA, "text:2: \"1x\" is not an intensity");
    refuses("time,g\n32nd of May,100\n", NULL, EBB_EDATA, "text:2: \"32nd of May\" is not a time");
    refuses("time,g,unit\n2022-01-01T00:00Z,100,lb/MWh\n", NULL, EBB_EDATA, "wanted gCO2eq/kWh");
}

static void polled_feeds_count_each_hour_once_with_the_mean_of_its_values(void **state)
{
    ebb_carbon_series_t s =
        parse("timestamp,zone_datetime,status,zone_name,carbon_intensity_avg,carbon_intensity_unit\n"
              "1634671805,2021-10-19T18:00:00.000Z,ok,CA-ON,54,gCO2eq/kWh\n"
              "1634673604,2021-10-19T19:00:00.000Z,ok,CA-ON,58,gCO2eq/kWh\n"
              "1634675404,2021-10-19T19:00:00.000Z,ok,CA-ON,58,gCO2eq/kWh\n"
              "1634677204,2021-10-19T19:00:00.000Z,ok,CA-ON,60,gCO2eq/kWh\n"
              "1634691604,2021-10-19T23:00:00.000Z,ok,CA-ON,70,gCO2eq/kWh\n",
              NULL);
    assert_true(s.n == 3 && s.repeated == 2 && s.point[1].g == 59);
    assert_true(s.point[1].end == at("2021-10-19T20:00Z") && s.holes == 1 && s.hole_s == 3 * 3600);
    assert_string_equal(s.zone, "CA-ON");
    ebb_carbon_series_free(&s);
}

static void steps_may_vary_and_means_are_weighted_by_time(void **state)
{
    ebb_carbon_series_t s = parse("time,g\n2020-01-01 00:00,100\n2020-01-01 00:15,200\n2020-01-01 00:30,300\n"
                                  "2020-01-01 01:00,400\n",
                                  NULL);
    double g[2];
    assert_int_equal(s.holes, 0);
    ebb_carbon_sample(&s, at("2020-01-01 00:00"), 3600, 1, g, NULL);
    assert_true(fabs(g[0] - (100 * 0.25 + 200 * 0.25 + 300 * 0.5)) < 1e-12);
    ebb_carbon_sample(&s, at("2020-01-01 00:10"), 600, 1, g, NULL);
    assert_true(fabs(g[0] - 150) < 1e-12);
    assert_int_equal(ebb_carbon_find(&s, at("2020-01-01 00:20")), 1);
    assert_int_equal(ebb_carbon_find(&s, at("2019-01-01 00:20")), -1);
    assert_int_equal(ebb_carbon_find(&s, at("2021-01-01 00:20")), -1);
    ebb_carbon_series_free(&s);
}

/* ---- JSON ---- */

static void units_and_kinds_of_replies_are_kept(void **state)
{
    ebb_carbon_series_t s =
        parse("{\"data\":[{\"point_time\":\"2022-07-15T00:00:00+00:00\",\"value\":1000}],\"meta\":{"
              "\"region\":\"CAISO_NORTH\",\"signal_type\":\"co2_moer\",\"units\":\"lbs_co2_per_mwh\","
              "\"data_point_period_seconds\":300,\"generated_at\":\"2022-07-15T00:00:00+00:00\"}}",
              NULL);
    assert_true(fabs(s.point[0].g - 453.59237) < 1e-9 && s.point[0].end - s.point[0].begin == 300);
    assert_true(s.signal == EBB_CARBON_MARGINAL && s.scope == EBB_CARBON_DIRECT && s.point[0].forecast);
    ebb_carbon_series_free(&s);
    refuses("{\"data\":[{\"point_time\":\"2022-07-15T00:00:00Z\",\"value\":1}],\"meta\":{\"units\":\"bananas\"}}", NULL,
            EBB_EDATA, "unit \"bananas\"");
    refuses("{\"data\":[],\"meta\":{\"signal_type\":\"health_damage\"}}", NULL, EBB_EDATA, "is not carbon");
    ebb_carbon_read_options_t de = {.zone = "DE"};
    refuses("{\"zone\":\"FR\",\"carbonIntensity\":50,\"datetime\":\"2024-01-01T00:00Z\"}", &de, EBB_EDATA,
            "about zone FR, not DE");
    refuses("{}", NULL, EBB_EDATA, "an object with 0 members");
    refuses("[]", NULL, EBB_EDATA, "not a single value");
    refuses("{\"data\":[{\"from\":\"2023-06-12T08:00Z\",\"intensity\":{\"forecast\":1}}]}", NULL, EBB_EDATA,
            "\"to\" is missing");
    refuses("{\"zone\": 3", NULL, EBB_EDATA, "not valid JSON");
}

static void sample_replies_are_taken_as_their_names_say(void **state)
{
    static const struct {
        const char *name, *error, *zone;
        int64_t n;
        ebb_carbon_signal_t signal;
        ebb_carbon_scope_t scope;
    } samples[] = {
        {"casdk_emissions_bylocation", NULL, "eastus", 1, 0, 0},
        {"casdk_forecasts_current", NULL, "northeurope", 6, 0, 0},
        {"electricitymaps_error_no_recent_data", "No recent data for zone", "", 0, 0, 0},
        {"electricitymaps_forecast_DE", NULL, "DE", 48, EBB_CARBON_AVERAGE, EBB_CARBON_LIFECYCLE},
        {"electricitymaps_history_null", NULL, "JP-KN", 2, EBB_CARBON_AVERAGE, EBB_CARBON_LIFECYCLE},
        {"electricitymaps_latest_lifecycle", NULL, "US-MIDW-MISO", 1, EBB_CARBON_AVERAGE, EBB_CARBON_LIFECYCLE},
        {"neso_empty_200", "not a reply of a service", "", 0, 0, 0},
        {"neso_error_400", "valid date", "", 0, 0, 0},
        {"neso_error_500", "resource not found", "", 0, 0, 0},
        {"neso_national_fw48h", NULL, "", 96, EBB_CARBON_AVERAGE, EBB_CARBON_DIRECT},
        {"neso_no_rows_200", "not a single value", "", 0, 0, 0},
        {"neso_regional_fw48h_postcode", NULL, "GB-BS7", 8, EBB_CARBON_AVERAGE, EBB_CARBON_DIRECT},
        {"neso_short_29_points", NULL, "", 29, EBB_CARBON_AVERAGE, EBB_CARBON_DIRECT},
        {"watttime_v3_forecast", NULL, "CAISO_NORTH", 288, EBB_CARBON_MARGINAL, EBB_CARBON_DIRECT},
        {"watttime_v3_forecast_historical", NULL, "CAISO_NORTH", 3, EBB_CARBON_MARGINAL, EBB_CARBON_DIRECT},
        {"watttime_v3_forecast_zeros", "zeros and no other value", "", 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        char name[128];
        ebb_carbon_series_t s;
        snprintf(name, sizeof name, "carbon/api_samples/%s.json", samples[i].name);
        const char *path = test_shared(name);
        skip_without(path, name);
        ebb_status_t status = ebb_carbon_read(path, NULL, &s);
        if (samples[i].error) {
            if (status == EBB_OK || !strstr(ebb_error()->message, samples[i].error))
                fail_msg("%s: %s", name, ebb_error()->message);
            ebb_error_clear();
            continue;
        }
        if (status != EBB_OK || s.n != samples[i].n)
            fail_msg("%s: %lld points, %s", name, (long long)s.n, ebb_error()->message);
        assert_string_equal(s.zone, samples[i].zone);
        assert_true(s.signal == samples[i].signal && s.scope == samples[i].scope);
        ebb_carbon_series_free(&s);
    }
}

static void real_files_are_read_with_their_holes(void **state)
{
    static const struct {
        const char *name, *zone;
        int64_t n, holes, hole_s;
    } files[] = {{"gb_neso_2023.csv", NULL, 17420, 4, 91 * 1800 + 5 * 1800 + 5 * 1800},
                 {"em2022_zones.csv", "PL", 8760, 0, 0},
                 {"lwa2020/gb_ci.csv", NULL, 21980, 0, 0},
                 {"dayahead_CISO_2019_2022.csv", NULL, 35040, 1, 86400},
                 {"marginal_CAISO_NORTH_2023-06.csv", NULL, 8928, 0, 0},
                 {"em_direct_lca/ES_2022.csv", NULL, 8760, 0, 0}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[128];
        ebb_carbon_series_t s;
        ebb_carbon_read_options_t options = {.zone = files[i].zone};
        snprintf(name, sizeof name, "carbon/%s", files[i].name);
        const char *path = test_shared(name);
        skip_without(path, name);
        assert_ok(ebb_carbon_read(path, &options, &s));
        if (s.n != files[i].n || s.holes != files[i].holes || s.hole_s != files[i].hole_s)
            fail_msg("%s: %lld points, %lld holes of %lld s", name, (long long)s.n, (long long)s.holes,
                     (long long)s.hole_s);
        ebb_carbon_series_free(&s);
    }
    const char *path = test_shared("carbon/polled/GB.csv.gz");
    ebb_carbon_series_t s;
    skip_without(path, "polled/GB.csv.gz");
    assert_ok(ebb_carbon_read(path, NULL, &s));
    assert_true(s.repeated > 5000 && s.holes > 0);
    for (int64_t i = 1; i < s.n; i++)
        assert_true(s.point[i].begin >= s.point[i - 1].end && s.point[i].g > 0);
    ebb_carbon_series_free(&s);
    assert_fails(ebb_carbon_read("/nonexistent/x.csv", NULL, &s), EBB_ENOINPUT, "/nonexistent/x.csv");
}

/* ---- typical days and the ladder ---- */

static void typical_days_are_of_their_hour_and_month(void **state)
{
    const ebb_carbon_zone_t *de = ebb_carbon_zone("DE", EBB_CARBON_SCOPE_UNKNOWN);
    assert_non_null(de);
    assert_true(de->scope == EBB_CARBON_LIFECYCLE && de->signal == EBB_CARBON_AVERAGE && de->year == 2022);
    assert_true(ebb_carbon_typical(de, at("2026-07-01T12:30Z")) == de->tenths[6][12] / 10.0);
    assert_true(ebb_carbon_zone("US-CAL-CISO", EBB_CARBON_DIRECT)->scope == EBB_CARBON_DIRECT);
    assert_ptr_equal(ebb_carbon_zone("CAISO_NORTH", EBB_CARBON_DIRECT),
                     ebb_carbon_zone("US-CAL-CISO", EBB_CARBON_DIRECT));
    assert_string_equal(ebb_carbon_zone("GB-BS7", 0)->name, "GB");
    assert_null(ebb_carbon_zone("XX", 0));
    int n = 0;
    for (const ebb_carbon_zone_t *z = ebb_carbon_zones(); z->name; z++, n++)
        for (int m = 0; m < 12; m++)
            for (int h = 0; h < 24; h++)
                assert_true(z->tenths[m][h] > 0 && z->tenths[m][h] < 20000);
    assert_int_equal(n, 32);
}

static ebb_carbon_series_t flat(int64_t begin, int64_t hours, double g, double slope)
{
    ebb_carbon_series_t s = {
        .signal = EBB_CARBON_AVERAGE, .scope = EBB_CARBON_LIFECYCLE, .zone = "DE", .source = "made"};
    for (int64_t i = 0; i < hours; i++) {
        ebb_carbon_point_t p = {begin + i * 3600, begin + (i + 1) * 3600, g + slope * (double)i, true, false};
        assert_ok(ebb_carbon_add(&s, &p));
    }
    assert_ok(ebb_carbon_settle(&s));
    return s;
}

static void each_rung_fills_what_the_better_ones_do_not_know(void **state)
{
    int64_t now = at("2026-03-01T12:00Z");
    ebb_carbon_series_t live = flat(now, 12, 100, 1), cached = flat(now - 6 * 3600, 24, 300, 1);
    ebb_carbon_series_t history = flat(now - 24 * 3600, 10 + 12, 500, 1);
    ebb_carbon_ladder_t ladder = {&live, &cached, &history, ebb_carbon_zone("DE", 0), NULL};
    ebb_carbon_forecast_t f;
    assert_ok(ebb_carbon_climb_down(&ladder, now, 3600, 48, &f));
    assert_true(f.g[0] == 100 && f.rung[0] == EBB_CARBON_LIVE && f.g[11] == 111);
    assert_true(f.rung[12] == EBB_CARBON_CACHED && f.g[12] == 318);
    assert_true(f.rung[18] == EBB_CARBON_YESTERDAY && f.g[18] == 518);
    assert_int_equal(f.count[0] + f.count[1] + f.count[2] + f.count[3] + f.count[4], 48);
    assert_int_equal(f.count[EBB_CARBON_LIVE], 12);
    assert_int_equal(f.count[EBB_CARBON_CACHED], 6);
    for (int i = 0; i < 48; i++)
        assert_true(f.g[i] > 0);
    ebb_carbon_forecast_free(&f);
    ebb_carbon_ladder_t typical = {.typical = ladder.typical};
    assert_ok(ebb_carbon_climb_down(&typical, now, 3600, 24, &f));
    assert_true(f.count[EBB_CARBON_TYPICAL] == 24 && f.scale == 1 && f.g[0] == ladder.typical->tenths[2][12] / 10.0);
    ebb_carbon_forecast_free(&f);
    ebb_carbon_ladder_t nothing = {.trouble = "no network"};
    assert_ok(ebb_carbon_climb_down(&nothing, now, 3600, 24, &f));
    assert_int_equal(f.count[EBB_CARBON_NOTHING], 24);
    assert_string_equal(f.trouble, "no network");
    ebb_carbon_forecast_free(&f);
    ebb_carbon_series_free(&live);
    ebb_carbon_series_free(&cached);
    ebb_carbon_series_free(&history);
}

static void stale_skewed_and_stuck_sources_are_left(void **state)
{
    int64_t now = at("2026-03-01T12:00Z");
    static const struct {
        int64_t begin, hours;
        double slope;
        const char *why;
    } bad[] = {{-50, 48, 1, "stale"}, {5, 24, 1, "a clock is off"}, {-1, 30, 0, "stuck: 30 equal values"}};
    for (int i = 0; i < 3; i++) {
        ebb_carbon_series_t live = flat(now + bad[i].begin * 3600, bad[i].hours, 100, bad[i].slope);
        ebb_carbon_ladder_t ladder = {.live = &live};
        ebb_carbon_forecast_t f;
        assert_ok(ebb_carbon_climb_down(&ladder, now, 3600, 12, &f));
        assert_int_equal(f.count[EBB_CARBON_LIVE], 0);
        assert_non_null(strstr(f.trouble, bad[i].why));
        ebb_carbon_forecast_free(&f);
        ebb_carbon_series_free(&live);
    }
}

static void steps_of_which_nothing_is_known_are_never_the_cleanest(void **state)
{
    int64_t now = at("2026-03-01T12:00Z");
    ebb_carbon_series_t live = flat(now, 6, 100, 10);
    ebb_carbon_ladder_t ladder = {.live = &live};
    ebb_carbon_forecast_t f;
    assert_ok(ebb_carbon_climb_down(&ladder, now, 3600, 12, &f));
    for (int i = 6; i < 12; i++)
        assert_true(f.rung[i] == EBB_CARBON_NOTHING && f.g[i] == 150);
    ebb_carbon_forecast_free(&f);
    ebb_carbon_series_free(&live);
}

static void out_of_memory_is_an_error_without_leaks(void **state)
{
    const char *text = "time,g\n2022-01-01T00:00Z,100\n2022-01-01T01:00Z,110\n2022-01-01T02:00Z,120\n";
    for (int n = 0; n < 50; n++) {
        ebb_carbon_series_t s;
        ebb_carbon_forecast_t f = {0};
        ebb_carbon_ladder_t ladder = {.live = &s};
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_carbon_parse(text, strlen(text), "text", NULL, &s);
        if (status == EBB_OK)
            status = ebb_carbon_climb_down(&ladder, at("2022-01-01T00:00Z"), 3600, 4, &f);
        ebb_alloc_fail_after(-1);
        ebb_error_clear();
        ebb_carbon_series_free(&s);
        ebb_carbon_forecast_free(&f);
        if (status == EBB_OK)
            return;
        assert_int_equal(status, EBB_ENOMEM);
    }
    fail_msg("more than 50 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_of_every_form_are_one_moment),
        cmocka_unit_test(a_day_on_which_clocks_change_has_all_of_its_hours),
        cmocka_unit_test(columns_are_found_by_name_by_zone_or_alone),
        cmocka_unit_test(what_cannot_be_is_left_out_and_counted_never_made_zero),
        cmocka_unit_test(polled_feeds_count_each_hour_once_with_the_mean_of_its_values),
        cmocka_unit_test(steps_may_vary_and_means_are_weighted_by_time),
        cmocka_unit_test(units_and_kinds_of_replies_are_kept),
        cmocka_unit_test(sample_replies_are_taken_as_their_names_say),
        cmocka_unit_test(real_files_are_read_with_their_holes),
        cmocka_unit_test(typical_days_are_of_their_hour_and_month),
        cmocka_unit_test(each_rung_fills_what_the_better_ones_do_not_know),
        cmocka_unit_test(stale_skewed_and_stuck_sources_are_left),
        cmocka_unit_test(steps_of_which_nothing_is_known_are_never_the_cleanest),
        cmocka_unit_test(out_of_memory_is_an_error_without_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
